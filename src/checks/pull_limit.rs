//! How many pulls Docker Hub still grants: the headers of its rate limit.

use std::time::Duration;

use super::CheckStatus;

/// What Docker Hub says of the pulls of an account, or of an address without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullLimit {
    Limited {
        remaining: u64,
        limit: u64,
        /// For how long the limit holds.
        window: Duration,
    },
    /// No header says anything: the account has no limit.
    Unlimited,
    Unavailable(String),
}

impl PullLimit {
    /// `200;w=21600` in `ratelimit-limit` and `ratelimit-remaining`
    /// (Docker's documentation, "Docker Hub pull usage and limits").
    pub fn from_headers(limit: Option<&str>, remaining: Option<&str>) -> Self {
        let (limit, remaining) = match (limit, remaining) {
            (Some(limit), Some(remaining)) => (limit, remaining),
            (None, None) => return Self::Unlimited,
            _ => return Self::Unavailable("it answers with half of the headers".into()),
        };
        let number = |text: &str| text.split(';').next()?.trim().parse::<u64>().ok();
        let window = limit.split(';').find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
        match (number(limit), number(remaining)) {
            (Some(limit), Some(remaining)) => {
                Self::Limited { remaining, limit, window: Duration::from_secs(window.unwrap_or(21_600)) }
            }
            _ => Self::Unavailable(format!("it answers ratelimit-limit: {limit}, which says no number")),
        }
    }

    /// Failed where no pull is left; a warning below a tenth of the limit.
    pub fn status(&self) -> CheckStatus {
        match self {
            Self::Limited { remaining: 0, .. } => CheckStatus::Failed,
            // A run pulls some ten images.
            Self::Limited { remaining, limit, .. } if remaining.saturating_mul(10) < *limit => {
                CheckStatus::Warning
            }
            Self::Limited { .. } | Self::Unlimited => CheckStatus::Ok,
            Self::Unavailable(_) => CheckStatus::Warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_tell_what_is_left() {
        let limited =
            |remaining, limit| PullLimit::Limited { remaining, limit, window: Duration::from_secs(21_600) };
        for (limit, remaining, expected, status) in [
            (Some("200;w=21600"), Some("187;w=21600"), limited(187, 200), CheckStatus::Ok),
            (Some("100"), Some("9"), limited(9, 100), CheckStatus::Warning),
            (Some("100;w=21600"), Some("0;w=21600"), limited(0, 100), CheckStatus::Failed),
            (None, None, PullLimit::Unlimited, CheckStatus::Ok),
        ] {
            let found = PullLimit::from_headers(limit, remaining);
            assert_eq!((found.status(), found), (status, expected));
        }
        let odd = PullLimit::from_headers(Some("many"), Some("few"));
        assert!(matches!(odd, PullLimit::Unavailable(_)) && odd.status() == CheckStatus::Warning);
    }
}
