//! Steps, and the schedules that are made of them.

use super::faulty::Fate;
use crate::model::event::Strategy;

/// What users call their files. Some are one, some are a directory of others.
pub(super) const PATHS: [&str; 9] =
    ["a", "A", "b", "b/c", "d/e", "D/e", "d/f.txt", "caf\u{e9}", "cafe\u{301}"];

/// A step. Numbers name one of what there is, modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A user saves, deletes or moves a file on a disk.
    Save {
        agent: u8,
        path: u8,
        content: u8,
    },
    Delete {
        agent: u8,
        path: u8,
    },
    Move {
        agent: u8,
        from: u8,
        to: u8,
    },
    /// The agent looks at its disk; writes what it knows to it.
    Scan {
        agent: u8,
    },
    Write {
        agent: u8,
    },
    Hello {
        agent: u8,
        heard: bool,
    },
    Upload {
        agent: u8,
    },
    Seal {
        agent: u8,
        most: u8,
    },
    Push {
        agent: u8,
        instance: u8,
        most: u8,
        fate: Fate,
    },
    Pull {
        agent: u8,
        instance: u8,
        most: u8,
    },
    /// One page of a snapshot.
    Page {
        agent: u8,
        most: u8,
    },
    Ack {
        agent: u8,
    },
    Restart {
        agent: u8,
    },
    /// All of it at once, as it is when nothing is in the way.
    Sync {
        agent: u8,
        instance: u8,
    },
    /// A copy of a disk is made; it takes the disk's place; it is started beside it.
    BackUpDisk {
        agent: u8,
    },
    RestoreDisk {
        agent: u8,
    },
    CloneDisk {
        agent: u8,
    },
    /// An instance reads the store.
    Refresh {
        instance: u8,
    },
    /// A caller of the API writes, having seen all of a file or what is shown of it.
    ApiWrite {
        instance: u8,
        node: u8,
        content: u8,
        all: bool,
        fate: Fate,
    },
    ApiDelete {
        instance: u8,
        node: u8,
        all: bool,
        fate: Fate,
    },
    Resolve {
        instance: u8,
        node: u8,
        by: Strategy,
        fate: Fate,
    },
    MakeReal {
        instance: u8,
        node: u8,
        fate: Fate,
    },
    Forget {
        instance: u8,
        node: u8,
        fate: Fate,
    },
    Trim {
        keep: u8,
    },
    Sweep,
    /// One of the requests that are late arrives.
    Arrive {
        which: u8,
    },
    BackUpStore,
    RestoreStore {
        told: bool,
    },
    /// A region's clock, the coordinator's.
    Clock {
        agent: u8,
        to: u8,
    },
    CoordinatorClock {
        to: u8,
    },
    /// In the next step of an agent it is killed.
    Kill {
        after: u8,
    },
}

impl Op {
    /// The agent that does something.
    pub(super) const fn agent(&self) -> Option<u8> {
        match *self {
            Self::Scan { agent }
            | Self::Write { agent }
            | Self::Hello { agent, .. }
            | Self::Upload { agent }
            | Self::Seal { agent, .. }
            | Self::Push { agent, .. }
            | Self::Pull { agent, .. }
            | Self::Page { agent, .. }
            | Self::Restart { agent }
            | Self::Sync { agent, .. } => Some(agent),
            _ => None,
        }
    }
}

/// The schedule with agents that are killed at any point.
pub(crate) fn with_kills(seed: u64, ops: Vec<Op>) -> Vec<Op> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x6b69_6c6c);
    let often = rng.u8(3..12);
    let mut with = Vec::with_capacity(ops.len());
    for op in ops {
        if op.agent().is_some() && rng.u8(0..often) == 0 {
            with.push(Op::Kill { after: rng.u8(0..8) });
        }
        with.push(op);
    }
    with
}

/// The schedule of a seed.
pub(crate) fn generate(seed: u64) -> Vec<Op> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let length = rng.usize(40..260);
    // What is rare is not in every schedule, and then not rare.
    let (disks, stores, clones, clocks) =
        (rng.bool(), rng.u8(0..4) == 0, rng.u8(0..4) == 0, rng.u8(0..4) == 0);
    let faults = rng.u8(0..3);
    let fate = |rng: &mut fastrand::Rng| match rng.u8(0..12) {
        0 if faults > 0 => Fate::AnswerLost,
        1 if faults > 0 => Fate::Lost,
        2 | 3 if faults > 1 => Fate::Late,
        4..6 if faults > 1 => Fate::Lost,
        6 if faults > 1 => Fate::AnswerLost,
        _ => Fate::Arrives,
    };
    // Where there are few paths and contents, users meet.
    let paths: Vec<u8> = (0..rng.u8(1..6)).map(|_| rng.u8(0..PATHS.len() as u8)).collect();
    let contents = rng.u8(1..6);
    let path = |rng: &mut fastrand::Rng| paths[rng.usize(0..paths.len())];
    let strategy = |rng: &mut fastrand::Rng| match rng.u8(0..4) {
        0 => Strategy::Fork,
        _ => Strategy::LastWriterWins,
    };
    // In some, users meet and the leader is quick, and in some content is swept all the time.
    let (meeting, sweeping) = (rng.u8(0..4) == 0, rng.u8(0..8) == 0);
    let mut ops = Vec::with_capacity(length);
    while ops.len() < length {
        if meeting && rng.bool() {
            let agent = rng.u8(..);
            let (node, instance) = (rng.u8(..), rng.u8(..));
            ops.push(match rng.u8(0..12) {
                0..3 => Op::Save { agent, path: path(&mut rng), content: rng.u8(0..contents) },
                3 => Op::Delete { agent, path: rng.u8(..) },
                4 => Op::Move { agent, from: rng.u8(..), to: path(&mut rng) },
                5..7 => Op::Scan { agent },
                7..10 => Op::Sync { agent, instance },
                _ => Op::Resolve { instance, node, by: Strategy::LastWriterWins, fate: Fate::Arrives },
            });
            continue;
        }
        if sweeping && rng.u8(0..12) == 0 {
            ops.push(Op::Sweep);
            continue;
        }
        let (agent, instance, node) = (rng.u8(..), rng.u8(..), rng.u8(..));
        let most = rng.u8(1..6);
        let op = match rng.u8(0..100) {
            0..14 => Op::Save { agent, path: path(&mut rng), content: rng.u8(0..contents) },
            14..18 => Op::Delete { agent, path: rng.u8(..) },
            18..22 => Op::Move { agent, from: rng.u8(..), to: path(&mut rng) },
            22..29 => Op::Scan { agent },
            29..35 => Op::Write { agent },
            35..39 => Op::Hello { agent, heard: rng.u8(0..4) > 0 },
            39..44 => Op::Upload { agent },
            44..49 => Op::Seal { agent, most },
            49..56 => Op::Push { agent, instance, most, fate: fate(&mut rng) },
            56..63 => Op::Pull { agent, instance, most },
            63..67 => Op::Page { agent, most },
            67..70 => Op::Ack { agent },
            70..72 => Op::Restart { agent },
            72..78 => Op::Sync { agent, instance },
            78..80 => Op::Refresh { instance },
            80..82 => Op::ApiWrite {
                instance,
                node,
                content: rng.u8(0..contents),
                all: rng.bool(),
                fate: fate(&mut rng),
            },
            82..84 => Op::ApiDelete { instance, node, all: rng.bool(), fate: fate(&mut rng) },
            84..87 => Op::Resolve { instance, node, by: strategy(&mut rng), fate: fate(&mut rng) },
            87..88 => Op::MakeReal { instance, node, fate: fate(&mut rng) },
            88..90 => Op::Forget { instance, node, fate: fate(&mut rng) },
            90..92 => Op::Trim { keep: rng.u8(0..8) },
            92..93 => Op::Sweep,
            93..95 => Op::Arrive { which: rng.u8(..) },
            95 if disks => Op::BackUpDisk { agent },
            96 if disks => Op::RestoreDisk { agent },
            97 if clones => Op::CloneDisk { agent },
            98 if stores && rng.bool() => Op::BackUpStore,
            98 if stores => Op::RestoreStore { told: rng.bool() },
            99 if clocks && rng.bool() => Op::Clock { agent, to: rng.u8(0..3) },
            99 if clocks => Op::CoordinatorClock { to: rng.u8(0..3) },
            _ => continue,
        };
        ops.push(op);
    }
    ops
}
