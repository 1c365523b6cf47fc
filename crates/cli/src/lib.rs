//! Turns words into requests and answers into words.
