//! DNS as far as an authority for `.vm` needs it (RFC 1035, RFC 6891): one question in, one small answer out.
//!
//! What is no well-formed question is dropped: an answer to it would only help whoever forged it. Names are compared without
//! case; the question is given back as it came.

use std::{fmt, net::Ipv4Addr};

/// The most bytes of a message over UDP that are read; a question is far shorter.
pub const MAX_DATAGRAM: usize = 4096;
/// The top-level domain of VMs.
pub const ZONE: &str = "vm";
/// How long an answer may be remembered, in seconds: a VM's address can be another VM's soon.
pub const TTL: u32 = 5;

const HEAD: usize = 12;
/// The longest name, its lengths and the root included.
const MAX_NAME: usize = 255;
/// What we say that we can receive (RFC 9715).
const PAYLOAD: u16 = 1232;

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Its number.
    pub id: u16,
    head: [u8; 2],
    /// Name, type and class as they came.
    question: &'a [u8],
    kind: u16,
    class: u16,
    extended: bool,
}

/// Bytes that are no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoQuery;

impl fmt::Display for NoQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is no question of DNS")
    }
}

impl std::error::Error for NoQuery {}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `.vm` itself.
    Zone,
    /// A VM's name in lower case, without the zone.
    Machine(String),
    /// Something below a VM, or otherwise nobody's in the zone.
    Nobody,
    /// A name elsewhere.
    Elsewhere,
}

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The name has this address.
    Address(Ipv4Addr),
    /// The zone itself.
    Zone,
    /// There is no such name.
    Missing,
    /// Who asks is not told.
    Refused,
    /// Who should know does not answer.
    Failed,
}

impl<'a> Query<'a> {
    /// The question that `packet` is.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(packet: &'a [u8]) -> Result<Self, NoQuery> {
        let (head, rest) = packet.split_first_chunk::<HEAD>().ok_or(NoQuery)?;
        let count = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let is_query = head[2] & (RESPONSE | OPCODE) == 0 && head[3] & 0x0f == 0;
        if !is_query || [count(4), count(6), count(8)] != [1, 0, 0] || count(10) > 1 {
            return Err(NoQuery);
        }
        let name = name_length(rest).ok_or(NoQuery)?;
        let question = rest.get(..name + 4).ok_or(NoQuery)?;
        let (fixed, mut rest) = (&question[name..], &rest[name + 4..]);
        let extended = count(10) == 1;
        if extended {
            rest = after_option(rest).ok_or(NoQuery)?;
        }
        if !rest.is_empty() {
            return Err(NoQuery);
        }
        Ok(Self {
            id: count(0),
            head: [head[2], head[3]],
            question,
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            extended,
        })
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let labels: Vec<&[u8]> = labels(self.question).collect();
        let Some((zone, below)) = labels.split_last() else { return Subject::Elsewhere };
        if !zone.eq_ignore_ascii_case(ZONE.as_bytes()) {
            return Subject::Elsewhere;
        }
        if self.class != CLASS_IN && self.class != CLASS_ANY {
            return Subject::Nobody;
        }
        match below {
            [] => Subject::Zone,
            [name] => String::from_utf8(name.to_ascii_lowercase()).map_or(Subject::Nobody, Subject::Machine),
            _ => Subject::Nobody,
        }
    }

    /// Whether `answer`, which somebody else gave to this question with number `id`, is one.
    #[must_use]
    pub fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        answer.get(..2) == Some(&id.to_be_bytes())
            && answer.get(2).is_some_and(|flags| flags & RESPONSE != 0)
            && answer.get(4..6) == Some(&[0, 1])
            && answer.get(HEAD..HEAD + self.question.len()).is_some_and(|question| {
                // Some resolvers give names back in lower case.
                question.eq_ignore_ascii_case(self.question)
            })
    }

    /// The answer that says what was found.
    #[must_use]
    pub fn answer(&self, finding: Finding) -> Vec<u8> {
        let (code, authoritative) = match finding {
            Finding::Address(_) | Finding::Zone => (0, AUTHORITATIVE),
            Finding::Failed => (2, 0),
            Finding::Missing => (3, AUTHORITATIVE),
            Finding::Refused => (5, 0),
        };
        let address = match finding {
            Finding::Address(address) if [TYPE_A, TYPE_ANY].contains(&self.kind) => Some(address),
            _ => None,
        };
        let wants_zone = finding == Finding::Zone && [TYPE_SOA, TYPE_ANY].contains(&self.kind);
        let is_said = address.is_some() || wants_zone;
        // Who asks for something that is not there learns from the zone how long that holds (RFC 2308).
        let is_told_of_zone = !is_said && authoritative != 0;
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.push(RESPONSE | authoritative | (self.head[0] & RECURSION_DESIRED));
        bytes.push(code | if authoritative == 0 { RECURSION_AVAILABLE } else { 0 });
        let counts = [1, u16::from(is_said), u16::from(is_told_of_zone), u16::from(self.extended)];
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(self.question);
        if let Some(address) = address {
            // The name is where the question has it.
            bytes.extend([0xc0, 12]);
            record(&mut bytes, TYPE_A, &address.octets());
        }
        if wants_zone || is_told_of_zone {
            name(&mut bytes, &[ZONE]);
            record(&mut bytes, TYPE_SOA, &start_of_authority());
        }
        if self.extended {
            bytes.push(0);
            bytes.extend(TYPE_OPT.to_be_bytes());
            bytes.extend(PAYLOAD.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }
}

fn record(bytes: &mut Vec<u8>, kind: u16, data: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(data);
}

/// Server, mailbox, serial, refresh, retry, expiry, and how long what is not there is not there.
fn start_of_authority() -> Vec<u8> {
    let mut bytes = Vec::new();
    name(&mut bytes, &["ns", ZONE]);
    name(&mut bytes, &["hostmaster", ZONE]);
    bytes.extend([1, 3600, 600, 86400, TTL].iter().flat_map(|number| number.to_be_bytes()));
    bytes
}

fn name(bytes: &mut Vec<u8>, labels: &[&str]) {
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}

/// How many bytes the name takes that `bytes` begin with. A question has nothing to point back to, so pointers are none.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > 63 || at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The labels of the name that `bytes`, which were looked at before, begin with.
fn labels(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length)).filter(|_| *length > 0)?;
        bytes = rest;
        Some(label)
    })
}

/// What follows the one further record of a question, which says what the asker can receive.
fn after_option(bytes: &[u8]) -> Option<&[u8]> {
    let (&[root, k0, k1, _, _, _, version, _, _, l0, l1], rest) = bytes.split_first_chunk()?;
    let is_option = root == 0 && [k0, k1] == TYPE_OPT.to_be_bytes() && version == 0;
    rest.get(usize::from(u16::from_be_bytes([l0, l1]))..).filter(|_| is_option)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    #[test]
    fn a_question_is_about_a_machine_the_zone_or_something_else() {
        for (name, subject) in [
            ("dev.vm", Subject::Machine("dev".to_owned())),
            ("DeV.Vm", Subject::Machine("dev".to_owned())),
            ("vm", Subject::Zone),
            ("www.dev.vm", Subject::Nobody),
            ("", Subject::Elsewhere),
            ("dev", Subject::Elsewhere),
            ("vm.example", Subject::Elsewhere),
        ] {
            assert_eq!(Query::parse(&query(name, TYPE_A)).unwrap().subject(), subject, "{name:?}");
        }
    }

    #[test]
    fn answers_say_what_was_found() {
        let address = Finding::Address(Ipv4Addr::new(172, 30, 0, 2));
        // Flags, code and the numbers of answers, authorities and further records.
        for (name, kind, finding, head) in [
            ("dev.vm", TYPE_A, address, [0x85, 0, 1, 0, 0]),
            ("dev.vm", TYPE_ANY, address, [0x85, 0, 1, 0, 0]),
            ("dev.vm", 28, address, [0x85, 0, 0, 1, 0]),
            ("no.vm", TYPE_A, Finding::Missing, [0x85, 3, 0, 1, 0]),
            ("vm", TYPE_SOA, Finding::Zone, [0x85, 0, 1, 0, 0]),
            ("vm", TYPE_A, Finding::Zone, [0x85, 0, 0, 1, 0]),
            ("example", TYPE_A, Finding::Refused, [0x81, 0x85, 0, 0, 0]),
            ("example", TYPE_A, Finding::Failed, [0x81, 0x82, 0, 0, 0]),
        ] {
            let packet = query(name, kind);
            let answer = Query::parse(&packet).unwrap().answer(finding);
            let said = [answer[2], answer[3], answer[7], answer[9], answer[11]];
            assert_eq!(said, head, "{name} {kind} {finding:?}");
            assert_eq!(answer[..2], [0xab, 0xcd]);
            assert_eq!(answer[HEAD..packet.len()], packet[HEAD..]);
            assert!(answer.len() <= 512, "no answer is ever cut");
        }
        let packet = query("dev.vm", TYPE_A);
        let answer = Query::parse(&packet).unwrap().answer(address);
        assert_eq!(answer[packet.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 172, 30, 0, 2]);
    }

    #[test]
    fn who_says_what_it_can_receive_is_told_the_same() {
        let mut packet = query("dev.vm", TYPE_A);
        packet[11] = 1;
        packet.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        let answer = Query::parse(&packet).unwrap().answer(Finding::Missing);
        assert_eq!(
            (answer[11], answer[answer.len() - 11..].to_vec()),
            (1, vec![0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0])
        );
    }

    #[test]
    fn what_is_no_question_is_none() {
        let good = query("dev.vm", TYPE_A);
        for cut in 0..good.len() {
            assert_eq!(Query::parse(&good[..cut]), Err(NoQuery), "{cut}");
        }
        let change = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            packet
        };
        for (why, packet) in [
            ("an answer", change(2, 0x80)),
            ("an update", change(2, 0x28)),
            ("two questions", change(5, 2)),
            ("an answer in it", change(7, 1)),
            ("a pointer", change(12, 0xc0)),
            ("a label that is too long", change(12, 64)),
            ("more than a question", [&good[..], &[0]].concat()),
            ("no option where one is said", change(11, 1)),
            ("a name that is too long", query(&"aaaaaaaaaaaaaaa.".repeat(16), TYPE_A)),
        ] {
            assert_eq!(Query::parse(&packet), Err(NoQuery), "{why}");
        }
    }

    #[test]
    fn an_answer_belongs_to_its_question() {
        let packet = query("Example.org", TYPE_A);
        let query = Query::parse(&packet).unwrap();
        let mut answer = query.answer(Finding::Failed);
        answer[..2].copy_from_slice(&[0, 7]);
        assert!(query.is_answered_by(7, &answer));
        assert!(!query.is_answered_by(8, &answer));
        assert!(!query.is_answered_by(7, &packet));
        assert!(!query.is_answered_by(7, &answer[..answer.len() - 1]));
        answer[14] ^= 1;
        assert!(!query.is_answered_by(7, &answer));
    }
}
