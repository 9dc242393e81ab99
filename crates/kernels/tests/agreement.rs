//! The CPU backend against the reference, and against itself on other numbers of threads.

mod suite;

use antiphon_kernels::cpu::Isa;
use antiphon_kernels::{Cpu, Reference};

#[test]
fn cpu_agrees_with_the_reference_on_every_block() {
    suite::agree(&Cpu::serial(), &Reference, 1e-5);
}

#[test]
fn the_number_of_threads_never_changes_a_bit() {
    let one = Cpu::serial();
    for threads in [2, 4] {
        suite::identical(&one, &Cpu::threads(threads), &format!("{threads} threads"));
    }
}

#[test]
fn the_instruction_set_never_changes_a_bit() {
    let fastest = Cpu::serial();
    for isa in [Isa::Portable, Isa::Avx2] {
        if isa.available() && isa != Isa::detect() {
            suite::identical(&fastest, &Cpu::serial().with_isa(isa), &format!("{isa:?}"));
        }
    }
}
