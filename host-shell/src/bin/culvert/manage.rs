//! `culvert appliance manage`: opens and closes an appliance's management port.

use std::error::Error;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use culvert_host::appliance::key::Key;
use culvert_host::appliance::manage::{TCP_PORT, manage, management};
use ipnet::IpNet;

#[derive(Args)]
pub(crate) struct Manage {
    /// The Unix socket of the appliance's console, which nobody else may be using
    #[arg(long, value_name = "SOCKET")]
    console: PathBuf,
    /// An address of the management port, with the length of its link's prefix; several
    /// can be given
    #[arg(long = "address", value_name = "ADDRESS/LENGTH", required = true)]
    addresses: Vec<IpNet>,
    /// A gateway, one for each IP version
    #[arg(long = "gateway", value_name = "ADDRESS")]
    gateways: Vec<IpAddr>,
    /// The TCP port of the control channel
    #[arg(long, value_name = "PORT", default_value_t = TCP_PORT)]
    tcp_port: u16,
    /// The key that opens the TCP port; without it that is closed
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Manage {
    /// Does it, and says what the port is now.
    pub(crate) fn tell(&self) -> ExitCode {
        match self.try_to_tell() {
            Ok(now) => {
                let _ = writeln!(io::stdout(), "{now}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let _ = writeln!(io::stderr(), "culvert: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn try_to_tell(&self) -> Result<String, Box<dyn Error>> {
        let port = management(&self.addresses, &self.gateways, self.tcp_port)?;
        let key = self.key.as_deref().map(Key::read).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build()?;
        let has_nic = runtime.block_on(manage(&self.console, &port, key.as_ref()))?;
        let own: Vec<_> = self.addresses.iter().map(IpNet::to_string).collect();
        let tcp = match (self.tcp_port, &key) {
            (0, _) => "it has no TCP port".to_owned(),
            (port, Some(_)) => format!("TCP port {port} is open to hosts with the key"),
            (port, None) => format!("TCP port {port} is closed: no key was given"),
        };
        let nic = match has_nic {
            true => "",
            false => "; but no NIC is for management yet",
        };
        Ok(format!(
            "the management port has {}; {tcp}{nic}",
            own.join(", ")
        ))
    }
}
