//! A new record: its target is followed from the moment of the answer.

use futures::FutureExt as _;
use kmonitor_event::{EventMask, Pid, ProcessRef};
use kmonitor_hub::Watch as HubWatch;

use super::{Live, RECORDS_MAX, Registration, SESSION_RECORDS_MAX, Task, UID_UNKNOWN};
use crate::adapter::TargetGone;
use crate::error::RegisterError;
use crate::monitor::Candidate;
use crate::procfs;
use crate::registry::{Place, SessionId, Subject};

impl Task {
    pub(super) async fn register(
        &mut self,
        monitor: Candidate,
        registration: Registration,
    ) -> Result<(), RegisterError> {
        let session = registration.session;
        // What has happened by now is no news to who registers now. Not later than
        // this: whose last target has ended is let go of.
        self.catch_up();
        self.check_room(session)?;
        let monitor = match self.by_identity.get(&monitor.key()) {
            Some(known) => *known,
            None => self.adopt(monitor)?,
        };
        let place = Place { session, monitor };
        let held = self.held(place, &registration);
        let registered = if held.is_empty() {
            self.register_present(place, registration).await
        } else {
            self.register_held(place, held, registration).await
        };
        registered.inspect_err(|_| self.retire(monitor))
    }

    /// As the target is now.
    async fn register_present(
        &mut self,
        place: Place,
        registration: Registration,
    ) -> Result<(), RegisterError> {
        let Registration {
            target_gone,
            target,
            watch,
            real_uid,
            events,
            signal,
            ..
        } = registration;
        let watch = match watch {
            Ok(watch) => self.follow(watch, target, target_gone, events).await?,
            Err(error) if error.is_gone() && target_gone == TargetGone::Accept => Err(target.pid),
            Err(error) => return Err(RegisterError::watch(target, error)),
        };
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(pid) => {
                self.registry.register(place, Err(pid), events, signal);
                return Ok(());
            }
        };
        let key = watch.process();
        let subject = Subject::live(key);
        self.registry.register(place, Ok(key), events, signal);
        // A process that died between the watch and the subscription is told of by
        // its watch only: what the stream says of it then is under a new key.
        let exit = watch.settled().now_or_never();
        let tree = self.memory.tree(subject).unwrap_or(self.next_tree);
        self.next_tree += 1;
        let live = self.live.entry(subject).or_insert_with(|| Live {
            key,
            watch: None,
            // Once more, now that changes of it are told.
            real_uid: procfs::real_uid(ProcessRef::from(key))
                .or(real_uid)
                .unwrap_or(UID_UNKNOWN),
            followed: false,
            tree,
        });
        live.watch.get_or_insert(watch);
        // Of one that somebody else was told of, the children are followed too.
        live.followed |= events.contains(EventMask::FORK) || self.memory.contains(subject);
        if let Some(Ok(exit)) = exit {
            let at = self.memory.tick();
            self.exit(subject, exit.status, at);
        }
        Ok(())
    }

    fn check_room(&self, session: SessionId) -> Result<(), RegisterError> {
        let (max, scope) = if self.registry.records() >= RECORDS_MAX {
            (RECORDS_MAX, "in all")
        } else if self.registry.records_of(session) >= SESSION_RECORDS_MAX {
            (SESSION_RECORDS_MAX, "for one session")
        } else {
            return Ok(());
        };
        Err(RegisterError::TooMany { max, scope })
    }

    /// Subscribes to a target, or says that it is gone where that is accepted.
    async fn follow(
        &mut self,
        watch: HubWatch,
        target: ProcessRef,
        target_gone: TargetGone,
        events: EventMask,
    ) -> Result<Result<HubWatch, Pid>, RegisterError> {
        let failed = |error| RegisterError::subscribe(target, error);
        let wanted = self.registry.union() | events;
        self.listen(wanted).await.map_err(failed)?;
        let Some(subscription) = &self.subscription else {
            return Ok(Ok(watch));
        };
        let process = ProcessRef::from(watch.process());
        let known = self.live.get(&Subject::live(watch.process()));
        let forks = events.contains(EventMask::FORK);
        let added = match known {
            Some(live) if live.followed || !forks => Ok(()),
            _ if forks => subscription.add_births(process).await,
            _ => subscription.add(process).await,
        };
        match added {
            Ok(()) => Ok(Ok(watch)),
            // Its end is in the stream.
            Err(error) if error.is_gone() && known.is_some() => Ok(Ok(watch)),
            Err(error) if error.is_gone() && target_gone == TargetGone::Accept => {
                Ok(Err(target.pid))
            }
            Err(error) => Err(failed(error)),
        }
    }
}
