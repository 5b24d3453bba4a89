//! The command line: shows what the daemon and its core know, has the daemon read its
//! configuration again, and builds and runs the appliance.

mod appliance;
mod bench;
mod manage;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use comfy_table::{Cell, CellAlignment, Table, presets};
use culvert_host::api::{
    Appliance, Client, ClientError, Counter, Endpoint, Event, EventKind, Events, Peer, Request,
    Route, Status, socket_path,
};
use culvert_host::cni::DEFAULT_RUN_DIR;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How often `events --follow` asks.
const FOLLOW: Duration = Duration::from_millis(500);

/// Shows what culvertd on this node knows, and runs culvert on bare metal.
#[derive(Parser)]
#[command(name = "culvert", version)]
struct Arguments {
    /// The daemon's socket [default: /run/culvert/culvertd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(flatten)]
    Daemon(Subject),
    /// The image for bare metal: build it, run it in QEMU, read its logs
    #[command(subcommand)]
    Appliance(appliance::Verb),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Aligned columns for people
    Table,
    /// The daemon's answer for programs
    Json,
}

#[derive(Subcommand)]
enum Subject {
    /// How the daemon is
    Status,
    /// The pods' interfaces
    Endpoints,
    /// The core's routes
    Routes,
    /// The other nodes
    Peers,
    /// The core's counters
    Counters {
        /// Show counters that are zero, too
        #[arg(long)]
        all: bool,
    },
    /// What happened lately: drops, path MTUs, neighbors
    Events {
        /// Go on showing what happens
        #[arg(long, short)]
        follow: bool,
    },
    /// Have the daemon read its configuration again, and work by it
    Reload,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let subject = match &arguments.verb {
        Verb::Daemon(subject) => subject,
        Verb::Appliance(verb) => return appliance::act(verb),
    };
    let socket = arguments
        .socket
        .unwrap_or_else(|| socket_path(Path::new(DEFAULT_RUN_DIR)));
    let done = match subject {
        Subject::Events { follow: true } => follow(&socket, arguments.output),
        subject => show(&socket, arguments.output, subject).map(|text| print(&text)),
    };
    match done {
        // A reader that has seen enough, as `head`, is no failure.
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "culvert: writing the answer failed: {error}");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "culvert: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Shows events as they come, until nobody reads any more or the daemon is gone.
fn follow(socket: &Path, output: Output) -> Result<io::Result<()>, ClientError> {
    let mut after = 0;
    loop {
        // A connection of its own each time: the daemon closes those that sleep.
        let mut client = Client::connect(socket, TIMEOUT)?;
        let new: Events = client.call(&Request::Events { after })?;
        after = new.last;
        let lost = (new.lost > 0).then(|| lost(new.lost));
        let lines = new.events.iter().map(|event| match output {
            Output::Json => serde_json::to_string(event).unwrap_or_default(),
            Output::Table => event_row(event).join("  "),
        });
        let lost = lost.filter(|_| output == Output::Table);
        for line in lost.into_iter().chain(lines) {
            if let Err(error) = print(&line) {
                return Ok(Err(error));
            }
        }
        std::thread::sleep(FOLLOW);
    }
}

fn show(socket: &Path, output: Output, subject: &Subject) -> Result<String, ClientError> {
    let mut client = Client::connect(socket, TIMEOUT)?;
    if output == Output::Json {
        let value: Value = client.call(&subject.request())?;
        return Ok(format!("{value:#}"));
    }
    let request = subject.request();
    Ok(match subject {
        Subject::Status => status(&client.call::<Status>(&request)?),
        Subject::Endpoints => endpoints(&client.call::<Vec<Endpoint>>(&request)?),
        Subject::Routes => routes(&client.call::<Vec<Route>>(&request)?),
        Subject::Peers => peers(&client.call::<Vec<Peer>>(&request)?),
        Subject::Counters { all } => counters(&client.call::<Vec<Counter>>(&request)?, *all),
        Subject::Events { .. } => events(&client.call::<Events>(&request)?),
        Subject::Reload => match client.call::<Vec<String>>(&request)? {
            changes if changes.is_empty() => "nothing has changed".to_owned(),
            changes => changes.join("\n"),
        },
    })
}

impl Subject {
    fn request(&self) -> Request {
        match self {
            Subject::Status => Request::Status,
            Subject::Endpoints => Request::Endpoints,
            Subject::Routes => Request::Routes,
            Subject::Peers => Request::Peers,
            Subject::Counters { .. } => Request::Counters,
            Subject::Events { .. } => Request::Events { after: 0 },
            Subject::Reload => Request::Reload,
        }
    }
}

fn status(status: &Status) -> String {
    let underlay = &status.underlay;
    let mut rows = vec![
        ["version".to_owned(), status.version.clone()],
        ["node".to_owned(), status.node.clone()],
        ["mode".to_owned(), status.mode.clone()],
        ["uptime".to_owned(), duration(status.uptime_seconds)],
        ["epoch".to_owned(), status.epoch.clone()],
        ["core protocol".to_owned(), status.core_protocol.clone()],
        [
            "underlay".to_owned(),
            format!(
                "{} {} mtu {}",
                underlay.device, underlay.address, underlay.mtu
            ),
        ],
        ["underlay by".to_owned(), underlay.driver.clone()],
        ["encapsulation".to_owned(), status.encapsulation.clone()],
        ["pod mtu".to_owned(), status.pod_mtu.to_string()],
        ["endpoints".to_owned(), status.endpoints.to_string()],
    ];
    if let Some(pool) = &status.pool {
        let free = format!("{} of {} free", pool.free, pool.devices);
        rows.push(["devices".to_owned(), free]);
    }
    if let Some(appliance) = &status.appliance {
        rows.extend(appliance_rows(appliance));
    }
    for worker in &status.workers {
        let cpu = worker
            .cpu
            .map_or_else(String::new, |cpu| format!(" on CPU {cpu}"));
        rows.push([
            format!("worker {}", worker.number),
            format!("{} packets{cpu}", worker.packets),
        ]);
    }
    for table in &status.tables {
        rows.push([
            format!("table {}", table.table),
            format!("{} of {}", table.used, table.capacity),
        ]);
    }
    match status.problems.split_first() {
        None => rows.push(["problems".to_owned(), "none".to_owned()]),
        Some((first, rest)) => {
            rows.push(["problems".to_owned(), first.clone()]);
            rows.extend(rest.iter().map(|problem| [String::new(), problem.clone()]));
        }
    }
    if let Some(reloaded) = &status.reloaded {
        let ago = format!("{} ago", duration(reloaded.seconds_ago));
        let changes = match reloaded.changes.is_empty() {
            true => "nothing has changed".to_owned(),
            false => reloaded.changes.join("\n"),
        };
        rows.push(["reloaded".to_owned(), format!("{ago}: {changes}")]);
    }
    table(&[], rows)
}

fn appliance_rows(appliance: &Appliance) -> Vec<[String; 2]> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let channel = format!("{} {}", appliance.channel, appliance.state);
    let mut rows = vec![row("appliance", channel)];
    rows.extend(appliance.description.clone().map(|is| row("", is)));
    if let Some(health) = &appliance.health {
        let since = duration(health.uptime_seconds);
        rows.push(row(
            "",
            format!(
                "up {since}, {} frames, {} buffers free",
                health.frames, health.buffers_free
            ),
        ));
        let worst = health.longest_turn_micros;
        rows.push(row(
            "",
            format!(
                "{} stalls, longest turn {worst} µs, {} frames unsent, {} without a buffer",
                health.stalls, health.unsent, health.no_buffer
            ),
        ));
    }
    rows.extend(appliance.nics.iter().map(|nic| {
        let text = format!(
            "{}: received {} ({} unclaimed, {} too long), sent {} ({} found no room)",
            nic.role, nic.rx_frames, nic.rx_unclaimed, nic.rx_too_long, nic.tx_frames, nic.tx_full
        );
        row(&format!("nic {}", nic.mac), text)
    }));
    rows
}

fn events(events: &Events) -> String {
    let shown = table(
        &["TIME (UTC)", "EVENT", "WHERE", "WHAT"],
        events.events.iter().map(event_row),
    );
    match events.lost {
        0 => shown,
        number => format!("{}\n{shown}", lost(number)),
    }
}

fn lost(number: u64) -> String {
    format!("({number} earlier events are no longer kept)")
}

fn event_row(event: &Event) -> [String; 4] {
    let (what, place, text) = match &event.kind {
        EventKind::Drop {
            reason,
            port,
            length,
            packet,
            ..
        } => (
            format!("drop {reason}"),
            port.clone(),
            format!("{packet}, {length} bytes"),
        ),
        EventKind::PathMtu {
            peer,
            underlay,
            mtu,
        } => {
            let at = underlay.map_or_else(String::new, |underlay| format!(" {underlay}"));
            let text = format!("tunnel packets of at most {mtu} bytes get there");
            ("path-mtu".to_owned(), format!("peer {peer}{at}"), text)
        }
        EventKind::Neighbor { port, address, mac } => {
            let text = match mac {
                Some(mac) => format!("{address} is at {mac}"),
                None => format!("{address} is lost"),
            };
            ("neighbor".to_owned(), port.clone(), text)
        }
    };
    [time_of_day(event.unix_millis), what, place, text]
}

/// In UTC, as the daemon's log.
fn time_of_day(unix_millis: u64) -> String {
    let (seconds, millis) = (unix_millis / 1000, unix_millis % 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

fn endpoints(endpoints: &[Endpoint]) -> String {
    let rows = endpoints.iter().map(|e| {
        let (mac, port) = (e.mac.to_string(), e.port.to_string());
        // Runtimes' identifiers have 64 digits; JSON has all of them.
        let container = e.container_id.chars().take(12).collect();
        [
            list(&e.addresses),
            mac,
            container,
            e.ifname.clone(),
            port,
            e.state.clone(),
            e.netns.clone(),
        ]
    });
    table(
        &[
            "ADDRESSES",
            "MAC",
            "CONTAINER",
            "INTERFACE",
            "PORT",
            "STATE",
            "NETNS",
        ],
        rows,
    )
}

fn routes(routes: &[Route]) -> String {
    let rows = routes.iter().map(|r| {
        [
            r.network.clone(),
            r.prefix.to_string(),
            r.next_hop.clone(),
            r.owner.clone(),
        ]
    });
    table(&["NETWORK", "PREFIX", "NEXT HOP", "OWNER"], rows)
}

fn peers(peers: &[Peer]) -> String {
    let rows = peers.iter().map(|p| {
        [
            p.name.clone(),
            p.underlay.to_string(),
            p.sent_by.join(","),
            p.mtu.to_string(),
            p.path_mtu.map_or("-".to_owned(), |mtu| mtu.to_string()),
            p.encapsulations.join(","),
            p.vtep_mac.to_string(),
            p.routes.to_string(),
            list(&p.node_addresses),
        ]
    });
    table(
        &[
            "NAME",
            "UNDERLAY",
            "SENT BY",
            "MTU",
            "PATH MTU",
            "ACCEPTED",
            "VTEP MAC",
            "ROUTES",
            "NODE ADDRESSES",
        ],
        rows,
    )
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}

fn counters(counters: &[Counter], all: bool) -> String {
    let shown = counters.iter().filter(|counter| all || counter.value != 0);
    let mut table = new_table(&["NAME", "VALUE", "HELP"]);
    for counter in shown {
        let value = Cell::new(counter.value).set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(&counter.name), value, Cell::new(&counter.help)]);
    }
    render(table)
}

fn table<const N: usize>(header: &[&str], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = new_table(header);
    for row in rows {
        table.add_row(row);
    }
    render(table)
}

/// The table as text, columns three spaces apart and flush with the left edge.
fn render(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt()
}

/// A table without borders.
fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    table
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}
