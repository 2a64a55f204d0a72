//! The secret that pairs card, mediator and PF driver.

use std::fmt;

use sha2::{Digest, Sha256};

/// What a PF driver shows in its Hello: SHA-256 of the token file's content, without the white
/// space at its end. All zero means "no token".
#[derive(Clone, Copy)]
pub struct Token(pub [u8; 32]);

impl Token {
    /// No token.
    pub const ABSENT: Self = Self([0; 32]);

    /// The token for the content of a token file (a UUID, or any other bytes).
    pub fn from_secret(content: &[u8]) -> Self {
        Self(Sha256::digest(content.trim_ascii_end()).into())
    }
}

/// In time that does not depend on where the two differ.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl Eq for Token {}

/// Never shows the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::ABSENT {
            "Token(absent)"
        } else {
            "Token(..)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_newline_does_not_change_the_token() {
        assert_eq!(
            Token::from_secret(b"83f9-a1\n"),
            Token::from_secret(b"83f9-a1")
        );
        assert_ne!(
            Token::from_secret(b"83f9-a1"),
            Token::from_secret(b"83f9-a2")
        );
        assert_ne!(Token::from_secret(b""), Token::ABSENT);
    }

    #[test]
    fn debug_hides_the_secret() {
        assert_eq!(format!("{:?}", Token::from_secret(b"x")), "Token(..)");
    }
}
