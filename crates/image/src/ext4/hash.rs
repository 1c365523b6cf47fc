//! The hash that orders the entries of an indexed directory: half of an MD4, over bytes taken as unsigned.

/// The number of this hash in the superblock.
pub const HALF_MD4: u8 = 1;
/// Its number in a directory, which the superblock's flag makes the unsigned one.
pub const HALF_MD4_IN_DIRECTORY: u8 = 1;

/// The hash of `name`: its lowest bit is free for marking collisions.
#[must_use]
pub fn half_md4(name: &[u8], seed: [u32; 4]) -> u32 {
    let mut state = seed;
    let mut rest = name;
    while !rest.is_empty() {
        mix(&mut state, &words(rest));
        rest = &rest[rest.len().min(32)..];
    }
    let hash = state[1] & !1;
    // The largest value means "end of directory" to those who read it.
    if hash == 0xffff_fffe { 0xffff_fffc } else { hash }
}

/// The first 32 bytes of `name` as words, padded with its length.
fn words(name: &[u8]) -> [u32; 8] {
    let length = name.len() as u32;
    let half = length | length << 8;
    let pad = half | half << 16;
    let taken = &name[..name.len().min(32)];
    let mut out = [pad; 8];
    for (word, bytes) in out.iter_mut().zip(taken.chunks(4)) {
        *word = bytes.iter().fold(pad, |value, byte| (value << 8).wrapping_add(u32::from(*byte)));
    }
    out
}

fn mix(state: &mut [u32; 4], input: &[u32; 8]) {
    type Step = fn(u32, u32, u32) -> u32;
    let select: Step = |x, y, z| z ^ (x & (y ^ z));
    let majority: Step = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    let parity: Step = |x, y, z| x ^ y ^ z;
    let rounds: [(Step, u32, [usize; 8], [u32; 4]); 3] = [
        (select, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (majority, 0x5a82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (parity, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (function, constant, order, shifts) in rounds {
        for (step, word) in order.into_iter().enumerate() {
            let sum = a.wrapping_add(function(b, c, d)).wrapping_add(input[word]).wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (word, value) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(value);
    }
}
