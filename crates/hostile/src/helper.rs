//! Packets to the helper, which is root, and its answers.

use wire::helper::{Answer, MAX_ANSWER, MAX_REQUEST, Request};

/// A request is exactly the bytes that it is written as, so nobody hides anything in one; what is none is refused; and the same
/// for answers.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert!(data.len() <= MAX_REQUEST);
        assert_eq!(request.encode(), data);
    }
    if let Ok(answer) = Answer::decode(data) {
        assert!(data.len() <= MAX_ANSWER);
        let written = answer.encode();
        assert_eq!(Answer::decode(&written), Ok(answer));
        assert_eq!(written, data);
    }
}
