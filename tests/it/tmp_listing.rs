use kmonitor::pidfd::LinuxProbe;
use kmonitor::source::ProcessProbe;
use std::process::{Command, Stdio};

#[test]
#[ignore]
fn listing_finds_the_living() {
    let mut stable: Vec<_> = (0..60).map(|_| Command::new("sleep").arg("100").spawn().unwrap()).collect();
    let mut storm: Vec<_> = (0..4)
        .map(|_| Command::new("sh").args(["-c", "while :; do sh -c 'sh -c : & wait'; done"]).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    let probe = LinuxProbe::new();
    let start = std::time::Instant::now();
    let (mut rounds, mut bad) = (0, 0);
    let mut all = Vec::new();
    while start.elapsed().as_secs() < 6 {
        rounds += 1;
        let r = probe.processes(&mut all);
        let missing: Vec<u32> = stable.iter().map(|c| c.id()).filter(|p| !all.iter().any(|e| e.pid.as_raw() as u32 == *p)).collect();
        if !missing.is_empty() {
            bad += 1;
            if bad < 6 { eprintln!("{r:?} {} listed; {} missing {missing:?}", all.len(), missing.len()); }
        }
    }
    for c in storm.iter_mut().chain(&mut stable) { let _ = c.kill(); let _ = c.wait(); }
    eprintln!("{bad} of {rounds}");
    assert_eq!(bad, 0);
}
