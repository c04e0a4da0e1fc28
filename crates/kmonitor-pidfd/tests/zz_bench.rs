use kmonitor_event::*;
use kmonitor_pidfd::*;
use kmonitor_source::*;
#[test]
fn bench() {
    let p = LinuxProbe::new();
    let pid = Pid::new(1).unwrap();
    let id = p.identify(pid).unwrap();
    let t = std::time::Instant::now();
    for _ in 0..100000 {
        p.state(pid, Some(id)).unwrap();
    }
    eprintln!("state {:?}", t.elapsed() / 100000);
    let mut v = vec![];
    let t = std::time::Instant::now();
    for _ in 0..100 {
        p.processes(&mut v).unwrap();
    }
    eprintln!("processes {} {:?}", v.len(), t.elapsed() / 100);
    let mut v = vec![];
    let t = std::time::Instant::now();
    for _ in 0..10000 {
        p.threads(pid, &mut v).unwrap();
    }
    eprintln!("threads {} {:?}", v.len(), t.elapsed() / 10000);
    let t = std::time::Instant::now();
    for _ in 0..10000 {
        drop(watch(pid));
    }
    eprintln!("watch {:?}", t.elapsed() / 10000);
}
