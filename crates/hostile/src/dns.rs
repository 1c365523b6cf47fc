//! Packets at the port for names.

use std::net::Ipv4Addr;

use wire::dns::{Finding, Query, Subject};

/// What is a question is given back as it came, in a small answer that belongs to it and is no question itself.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(query) = Query::parse(data) else { return };
    if let Subject::Machine(name) = query.subject() {
        assert!(name.len() <= 63 && !name.is_empty());
        assert!(!name.bytes().any(|b| b.is_ascii_uppercase()));
    }
    let findings = [
        Finding::Address(Ipv4Addr::LOCALHOST),
        Finding::Zone,
        Finding::Missing,
        Finding::Refused,
        Finding::Failed,
    ];
    for finding in findings {
        let answer = query.answer(finding);
        assert!(answer.len() <= 512, "{finding:?}");
        assert_eq!(answer[..2], data[..2]);
        assert!(query.is_answered_by(query.id, &answer));
        assert!(Query::parse(&answer).is_err(), "who gets its own answer as a question answers without end");
    }
    assert!(!query.is_answered_by(query.id, data));
}
