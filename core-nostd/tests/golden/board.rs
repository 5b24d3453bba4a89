//! What is asked of the shell around the core, and what it answers.

use super::*;

pub(super) fn roles() -> Vec<(&'static str, Role)> {
    every!(Role {
        "unused" Role::Unused => Role::Unused,
        "port" Role::Port(_) => Role::Port(PortId(300)),
        "trunk" Role::Trunk { .. } => Role::Trunk { base: 300 },
        "management" Role::Management => Role::Management,
    })
}

pub(super) fn requests() -> Vec<(&'static str, Board)> {
    every!(Board {
        "describe" Board::Describe => Board::Describe,
        "nics" Board::Nics { .. } => Board::Nics { from: 3 },
        "set-role" Board::SetRole { .. } => Board::SetRole { mac: MAC, role: Role::Unused },
        "health" Board::Health => Board::Health,
        "set-management" Board::SetManagement(_) => Board::SetManagement(Management {
            addresses: list(&[WireAddress { address: ip("192.168.78.1"), prefix_length: 24 }]),
            gateways: list(&[ip("192.168.78.254"), ip("fe80::1")]),
            tcp_port: 7373,
        }),
        "set-key" Board::SetKey { .. } => Board::SetKey { key: Some(PresharedKey([0x5a; KEY_LEN])) },
        "hold-clock" Board::HoldClock { .. } => Board::HoldClock { micros: 70_000_000, tick: true },
        "restart" Board::Restart => Board::Restart,
        "power-off" Board::PowerOff { .. } => Board::PowerOff { status: 3 },
    })
}

pub(super) fn refusals() -> Vec<(&'static str, BoardRefusal)> {
    every!(BoardRefusal {
        "no-nic" BoardRefusal::NoNic(_) => BoardRefusal::NoNic(MAC),
        "role-taken" BoardRefusal::RoleTaken(_) => BoardRefusal::RoleTaken(Role::Management),
        "no-port" BoardRefusal::NoPort(_) => BoardRefusal::NoPort(PortId(4096)),
        "no-management" BoardRefusal::NoManagement => BoardRefusal::NoManagement,
        "no-authentication" BoardRefusal::NoAuthentication => BoardRefusal::NoAuthentication,
        "no-randomness" BoardRefusal::NoRandomness => BoardRefusal::NoRandomness,
        "address" BoardRefusal::Address(_) => BoardRefusal::Address(ip("127.0.0.1")),
        "clock-runs" BoardRefusal::ClockRuns => BoardRefusal::ClockRuns,
    })
}

pub(super) fn answers() -> Vec<(&'static str, BoardAnswer)> {
    every!(BoardAnswer {
        "description" BoardAnswer::Description(_) => BoardAnswer::Description(Description {
            architecture: "aarch64".try_into().unwrap(),
            version: "0.1.0".try_into().unwrap(),
            nics: 3,
            largest_frame: 1900,
            buffers: 4096,
            management: true,
        }),
        "nics" BoardAnswer::Nics(_) => BoardAnswer::Nics(list(&[Nic {
            mac: Role::Port(PortId(300)).mac(),
            role: Role::Port(PortId(300)),
            rx_frames: 70_000,
            rx_unclaimed: 1,
            rx_too_long: 2,
            tx_frames: u64::MAX,
            tx_full: 3,
        }])),
        "health" BoardAnswer::Health(_) => BoardAnswer::Health(Health {
            micros: 70_000_000,
            turns: u64::MAX,
            stalls: 1,
            longest_turn: 300,
            frames: 70_000,
            instructions: 1 << 40,
            buffers_free: 4000,
            unsent: 2,
            no_buffer: 4,
            stack: 30_000,
            refused: 5,
        }),
        "done" BoardAnswer::Done => BoardAnswer::Done,
        "refused" BoardAnswer::Refused(_) => BoardAnswer::Refused(BoardRefusal::NoManagement),
    })
}
