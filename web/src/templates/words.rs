//! Numbers as people say them: the filters that our templates have beside those of minijinja. Their space does not break; in a subject and in
//! plain text it becomes a usual one.

use minijinja::Environment;

/// Adds `percent`, `duration`, `size` and `height_at`.
pub(super) fn add_to(env: &mut Environment<'_>) {
    env.add_filter("percent", percent);
    env.add_filter("duration", duration);
    env.add_filter("size", size);
    env.add_filter("height_at", height_at);
}

/// `{{ 5|percent }}`: "5 %".
fn percent(share: u64) -> String {
    if share == 0 { "under 1\u{a0}%".into() } else { format!("{share}\u{a0}%") }
}

/// `{{ 65|duration }}`, from seconds: "1 min 5 s".
fn duration(seconds: u64) -> String {
    let parts = match seconds {
        0..60 => [(seconds, "s"), (0, "")],
        60..3600 => [(seconds / 60, "min"), (seconds % 60, "s")],
        _ => [(seconds / 3600, "h"), (seconds % 3600 / 60, "min")],
    };
    let [first, second] = parts.map(|(count, unit)| format!("{count}\u{a0}{unit}"));
    if parts[1].0 == 0 { first } else { format!("{first} {second}") }
}

/// `{{ 3400000|size }}`, from bytes: "3.4 MB", with the thousands that shops and mail providers mean.
fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => return format!("{bytes}\u{a0}B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    let tenths = bytes / (unit / 10);
    if tenths < 100 && !tenths.is_multiple_of(10) {
        format!("{}.{}\u{a0}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}\u{a0}{name}", bytes / unit)
    }
}

/// `{{ picture.height|height_at(picture.width, 600) }}`: how high a picture is when it is made 600 wide.
fn height_at(height: u32, width: u32, wanted: u32) -> u32 {
    let height = u64::from(height) * u64::from(wanted) / u64::from(width.max(1));
    u32::try_from(height).unwrap_or(u32::MAX).clamp(1, wanted.saturating_mul(4).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_sizes_are_said_as_people_say_them() {
        let plain = |said: String| said.replace('\u{a0}', " ");
        assert_eq!([0, 5, 100].map(percent).map(plain), ["under 1 %", "5 %", "100 %"]);
        assert_eq!([0, 12, 60, 65, 3600, 3725].map(duration).map(plain), ["0 s", "12 s", "1 min", "1 min 5 s", "1 h", "1 h 2 min"]);
        assert_eq!([999, 3_000, 3_450_000, 48_200_000, 7_000_000_000].map(size).map(plain), ["999 B", "3 kB", "3.4 MB", "48 MB", "7 GB"]);
        assert_eq!(plain(size(u64::MAX)), "18446744073 GB");
    }

    #[test]
    fn a_picture_without_a_size_has_a_height_all_the_same() {
        assert_eq!(height_at(720, 1280, 600), 337);
        assert_eq!(height_at(0, 0, 600), 1);
        assert_eq!(height_at(u32::MAX, 1, 600), 2400);
        assert_eq!(height_at(1, 1, 0), 1);
    }
}
