//! What was found, and its JSON: field names and words are a contract, told in
//! the manual page.

use serde::Serialize;

/// How far something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Works,
    /// It does, but not as well as it could.
    Degraded,
    Fails,
    /// It could not be tried.
    Unknown,
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Check {
    pub(crate) fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            cause: None,
            advice: None,
        }
    }

    pub(crate) fn cause(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(crate) fn works(&self) -> bool {
        matches!(self.state, State::Works | State::Degraded)
    }
}

/// How much of kmonitor a host carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tier {
    Host,
    Container,
    Restricted,
    None,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
            Self::Restricted => "restricted",
            Self::None => "none",
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) kernel: Kernel,
    pub(crate) tier: Tier,
    pub(crate) summary: String,
    pub(crate) checks: Vec<Check>,
    pub(crate) namespaces: Namespaces,
    pub(crate) privileges: Privileges,
    pub(crate) limits: Limits,
    pub(crate) degraded: Vec<String>,
    pub(crate) would_help: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Kernel {
    pub(crate) release: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Namespace {
    pub(crate) id: Option<u64>,
    pub(crate) initial: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Namespaces {
    pub(crate) pid: Namespace,
    pub(crate) user: Namespace,
    pub(crate) net: Namespace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Privileges {
    pub(crate) uid: Option<u32>,
    pub(crate) cap_net_admin: Option<bool>,
    pub(crate) cap_sys_ptrace: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Limits {
    pub(crate) nofile_soft: Option<u64>,
    pub(crate) nofile_hard: Option<u64>,
    pub(crate) pid_max: Option<u64>,
    pub(crate) rmem_max: Option<u64>,
    pub(crate) hidepid: Option<String>,
}
