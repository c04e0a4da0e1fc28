//! The command line of `kmonitor serve`.

use std::path::PathBuf;

use clap::Args;
use kmonitor::signal::device::DEVICE_PATH;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where the device is. A file is made there if there is none
    #[arg(long, value_name = "PATH", default_value = DEVICE_PATH)]
    pub(crate) device: PathBuf,

    /// Who may open it: permissions in octal
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode)]
    pub(crate) mode: u32,

    /// The group that it belongs to, by name or number; without, that of the server
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are octal, 0 to 0777, such as 0660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("666"), Ok(0o666));
        for wrong in ["", "8", "1000", "-1", "rw", "0o660", "99999999999"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
