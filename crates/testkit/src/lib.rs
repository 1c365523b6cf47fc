//! Fakes, faults, a throw-away home, and a world that must be clean afterwards.
