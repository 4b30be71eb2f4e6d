//! The one function of the C library's mathematics that anything here calls (tokio for its statistics, templates for `**`). With one of our own,
//! no node loads all the others: half a megabyte of memory, and their relocation at each start of a hook.

// The name is the C library's: nothing else can have it, and the linker takes this one.
#[allow(unsafe_code, reason = "a name for the linker is one that the compiler cannot keep apart")]
#[unsafe(no_mangle)]
extern "C" fn pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_power() {
        for (base, exponent, power) in [(2.0, 10.0, 1024.0), (4.0, 0.5, 2.0), (10.0, -2.0, 0.01), (-8.0, 3.0, -512.0), (0.0, 0.0, 1.0)] {
            assert_eq!(super::pow(base, exponent), power);
            assert_eq!(f64::powf(base, exponent), power);
        }
        assert!(super::pow(-1.0, 0.5).is_nan());
    }
}
