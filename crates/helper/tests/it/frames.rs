//! A guest: the other end of a tap, on which frames are written and read as a VMM does.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    time::Duration,
};

use model::network::Mac;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::helper::{Ask, Guest};

use crate::world::{DEADLINE, GATEWAY, World};

/// The header of virtio-net before each frame: nothing is left to the other side to do.
const HEADER: usize = 10;
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A guest on its tap.
pub struct Card {
    tap: File,
    pub mac: [u8; 6],
    pub address: [u8; 4],
    /// The host's hardware address.
    pub gateway: [u8; 6],
}

impl Card {
    /// Makes tap and rules of `guest` and plugs it in.
    pub fn plug(world: &World, guest: Guest) -> Self {
        world.done(Ask::EnsureBridge);
        world.done(Ask::CreateTap(guest.vm));
        world.done(Ask::ApplyRules(guest));
        let tap = world.host.run(|| host::links::open_tap(&format!("bg-{}", guest.vm)).unwrap());
        let mut card = Self {
            tap,
            mac: Mac::of(guest.vm).0,
            address: [172, 30, 0, u8::try_from(guest.host_number).unwrap()],
            gateway: BROADCAST,
        };
        // A port that has just begun says nothing yet, so it is asked until it answers.
        let mut asked = 0;
        while card.gateway == BROADCAST {
            asked += 1;
            assert!(asked < 100, "the host does not answer");
            card.send(&card.asks(GATEWAY));
            card.gateway = card.answer_of(GATEWAY, Duration::from_millis(300)).unwrap_or(BROADCAST);
        }
        card
    }

    pub fn send(&self, frame: &[u8]) {
        let all = [&[0; HEADER][..], frame].concat();
        (&self.tap).write_all(&all).unwrap();
    }

    /// The next frame within `patience`.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(&self.tap, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec::try_from(patience).unwrap())).unwrap();
        if ready == 0 {
            return None;
        }
        let mut frame = vec![0; 2048];
        let count = (&self.tap).read(&mut frame).unwrap();
        frame.truncate(count);
        frame.drain(..HEADER);
        Some(frame)
    }

    /// Who has `address`?
    pub fn asks(&self, address: [u8; 4]) -> Vec<u8> {
        arp(BROADCAST, self.mac, 1, (self.mac, self.address), ([0; 6], address))
    }

    fn answer_of(&self, address: [u8; 4], patience: Duration) -> Option<[u8; 6]> {
        while let Some(frame) = self.receive(patience) {
            if is_arp(&frame, 2) && frame[28..32] == address {
                return frame[22..28].try_into().ok();
            }
        }
        None
    }

    /// A datagram to `to` by way of the host.
    pub fn datagram(&self, to: [u8; 4], ports: (u16, u16), text: &str) -> Vec<u8> {
        ethernet(self.gateway, self.mac, 0x0800, &udp(self.address, to, ports, text))
    }

    /// Answers whoever asks for the guest's hardware address, until a datagram with `text` comes.
    pub fn wait_for(&self, text: &str) -> Vec<u8> {
        loop {
            let frame = self.receive(DEADLINE).unwrap_or_else(|| panic!("no {text:?} comes"));
            self.answer_arp(&frame);
            if holds(&frame, text) {
                return frame;
            }
        }
    }

    pub fn answer_arp(&self, frame: &[u8]) {
        if is_arp(frame, 1) && frame[38..42] == self.address {
            let (mac, address) = (frame[22..28].try_into().unwrap(), frame[28..32].try_into().unwrap());
            self.send(&arp(mac, self.mac, 2, (self.mac, self.address), (mac, address)));
        }
    }
}

impl AsFd for Card {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

pub fn arp(
    to: [u8; 6],
    from: [u8; 6],
    operation: u16,
    sender: ([u8; 6], [u8; 4]),
    target: ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let body = [&head[..], &operation.to_be_bytes(), &sender.0, &sender.1, &target.0, &target.1].concat();
    ethernet(to, from, 0x0806, &body)
}

pub fn is_arp(frame: &[u8], operation: u8) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == operation
}

/// An IPv4 packet with a UDP datagram from and to these ports.
pub fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), text: &str) -> Vec<u8> {
    let length = u16::try_from(8 + text.len()).unwrap();
    let datagram =
        [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0], text.as_bytes()]
            .concat();
    let mut head = vec![0x45, 0];
    head.extend((20 + length).to_be_bytes());
    head.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    head.extend(from.iter().chain(&to));
    let sum: u32 = head.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    [head, datagram].concat()
}

/// Whether `text` is in `frame`.
pub fn holds(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}
