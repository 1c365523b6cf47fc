//! The guest's side: init and agent in one static program.
