//! Philox4x32-10 words by index (Salmon et al. 2011, section 3.3), for dropout masks. The same words as
//! `antiphon_core::Stream`, written here so that this crate needs no other.

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The four words at `counter` under `key`.
#[inline(always)]
pub(crate) fn block(mut key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let mut c = counter;
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

/// The block that holds words `4 index .. 4 index + 4` of the stream with high counter `high`.
#[inline(always)]
pub(crate) fn at(key: [u32; 2], high: u64, index: u64) -> [u32; 4] {
    block(key, [index as u32, (index >> 32) as u32, high as u32, (high >> 32) as u32])
}

/// Word `index` of the stream.
pub(crate) fn word(key: [u32; 2], high: u64, index: u64) -> u32 {
    at(key, high, index / 4)[(index % 4) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers_of_random123() {
        assert_eq!(block([0, 0], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(block([!0, !0], [!0; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            block([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_word_is_a_lane_of_its_block() {
        let (key, high) = ([3, 9], 7 << 40);
        for i in 0..12 {
            assert_eq!(word(key, high, i), at(key, high, i / 4)[i as usize % 4]);
        }
    }
}
