//! Choosing the source.

use std::sync::Arc;

use kmonitor_source::{EventSource, ProcessProbe, SourceKind, StartError};

use crate::error::OpenError;

/// Where a hub's facts are to come from.
pub(crate) enum Choice {
    /// The best that works here.
    Best,
    /// This one or none.
    Only(SourceKind),
    /// The caller's own.
    Given(Box<dyn EventSource>),
}

/// The source that was opened, and those that were not.
pub(crate) struct Opened {
    pub(crate) source: Box<dyn EventSource>,
    pub(crate) probe: Arc<dyn ProcessProbe>,
    pub(crate) passed_over: Vec<StartError>,
}

/// Opens what was chosen. Must run where the source will be driven.
pub(crate) async fn open(
    choice: Choice,
    probe: Option<Arc<dyn ProcessProbe>>,
) -> Result<Opened, OpenError> {
    let mut passed_over = Vec::new();
    let source = match choice {
        Choice::Given(source) => source,
        Choice::Only(kind) => start(kind).await?,
        Choice::Best => {
            let mut found = None;
            for kind in [SourceKind::Connector, SourceKind::Pidfd] {
                match start(kind).await {
                    Ok(source) => {
                        found = Some(source);
                        break;
                    }
                    Err(error) => {
                        tracing::info!(%error, "passing over a source");
                        passed_over.push(error);
                    }
                }
            }
            match found {
                Some(source) => source,
                None => return Err(OpenError::NoSource(passed_over)),
            }
        }
    };
    tracing::debug!(source = %source.capabilities().kind, "hub opened");
    let probe = probe.or_else(system_probe).ok_or(OpenError::NoProbe)?;
    Ok(Opened {
        source,
        probe,
        passed_over,
    })
}

async fn start(kind: SourceKind) -> Result<Box<dyn EventSource>, StartError> {
    match kind {
        #[cfg(feature = "connector")]
        SourceKind::Connector => {
            let source = kmonitor_connector::ConnectorSource::open().await?;
            Ok(Box::new(source))
        }
        #[cfg(feature = "pidfd")]
        SourceKind::Pidfd => {
            let source = kmonitor_pidfd::PidfdSource::open()?;
            Ok(Box::new(source))
        }
        other => Err(StartError::new(
            other,
            kmonitor_source::StartErrorKind::Unsupported,
            "it is not built in, or must be given by the caller",
            None,
        )),
    }
}

#[cfg(feature = "pidfd")]
fn system_probe() -> Option<Arc<dyn ProcessProbe>> {
    Some(Arc::new(kmonitor_pidfd::LinuxProbe::new()))
}

#[cfg(not(feature = "pidfd"))]
fn system_probe() -> Option<Arc<dyn ProcessProbe>> {
    None
}
