//! Hidden values.

pub mod value {
    //! The value of a secret.

    /// Bytes that are zeroed on drop.
    #[derive(Clone)]
    pub struct SecretValue(zeroize::Zeroizing<Vec<u8>>);

    impl SecretValue {
        pub fn new(bytes: Vec<u8>) -> Self {
            Self(zeroize::Zeroizing::new(bytes))
        }
        pub fn expose(&self) -> &[u8] {
            &self.0
        }
        pub fn len(&self) -> usize {
            self.0.len()
        }
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    impl std::fmt::Debug for SecretValue {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("[redacted]")
        }
    }
}
