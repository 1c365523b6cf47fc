//! The JSON that clients send to the daemon and guests to it, and the texts in it that become names.

use std::fmt::Debug;

use model::{ImageName, KernelName, VmName, signal::Signal, size};
use serde::{Serialize, de::DeserializeOwned};
use wire::{
    control::{
        BuildImage, CreateVm, ErrorBody, Event, ExportWorkspace, ImportKernel, PrepareWorkspace, PullImage,
        SetVm, Vm, WorkspacePlan,
    },
    guest::{Config, Grown, Health, Ports, Stats, answer, refusal},
    tree::Wanted,
};

use crate::message;

/// What is understood is written as what is understood again, what is not is told in few words, and a name is one.
///
/// The first byte says what the others are.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 18 {
        0 => check_json::<CreateVm>(rest),
        1 => check_json::<SetVm>(rest),
        2 => check_json::<PullImage>(rest),
        3 => check_json::<BuildImage>(rest),
        4 => check_json::<ImportKernel>(rest),
        5 => check_json::<PrepareWorkspace>(rest),
        6 => check_json::<ExportWorkspace>(rest),
        7 => check_json::<WorkspacePlan>(rest),
        8 => check_json::<Event>(rest),
        9 => check_json::<Vm>(rest),
        10 => check_json::<Config>(rest),
        11 => check_json::<Health>(rest),
        12 => check_json::<Ports>(rest),
        13 => check_json::<Stats>(rest),
        14 => check_json::<Grown>(rest),
        15 => check_json::<Wanted>(rest),
        16 => {
            check_json::<ErrorBody>(rest);
            if let Some(body) = refusal(rest) {
                assert!(
                    body.message.chars().count() <= 1004 && body.causes.is_empty() && body.hint.is_none()
                );
            }
        }
        _ => str::from_utf8(rest).into_iter().for_each(check_names),
    }
}

fn check_json<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    match answer::<T>(bytes) {
        Ok(value) => {
            let written = serde_json::to_vec(&value).expect("it was read from such");
            assert_eq!(answer::<T>(&written).as_ref(), Ok(&value));
        }
        Err(error) => message::check(&error),
    }
}

fn check_names(text: &str) {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if VmName::try_from(text).is_ok() {
        assert!(text.bytes().all(|b| plain(b) || b == b'-') && text.len() <= 63 && !text.starts_with('-'));
    }
    let stored = [ImageName::try_from(text).is_ok(), KernelName::try_from(text).is_ok()];
    assert_eq!(stored[0], stored[1], "images and kernels are named alike");
    if stored[0] {
        assert!(text.bytes().all(|b| plain(b) || b"-._".contains(&b)) && text.len() <= 128);
        assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()), "{text}");
    }
    if let Ok(bytes) = size::parse(text) {
        assert!((1..=1 << 63).contains(&bytes));
        assert_eq!(size::parse(&size::exact(bytes)), Ok(bytes));
    }
    if let Some(signal) = Signal::from_name(text) {
        assert_eq!(Signal::from_name(signal.name()), Some(signal));
    }
}
