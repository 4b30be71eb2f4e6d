//! When the devices of people were heard, kept as spans: a phone that is home for a day is one row, whatever it says.

use std::collections::BTreeMap;
use std::time::Duration;

use dms3_core::presence::Device;
use dms3_core::request::Heard;
use dms3_core::time::Timestamp;

/// A silence of so long ends a span.
const SILENCE: Duration = Duration::from_secs(300);
/// Spans of before that wait to be written, at most.
const ENDED: usize = 200;
/// How often they are written.
pub const WRITE_EVERY: Duration = Duration::from_secs(600);

/// Of all devices that count for somebody.
#[derive(Debug, Default)]
pub struct Sightings {
    now: BTreeMap<Device, Span>,
    /// Not written since they ended.
    ended: Vec<Heard>,
}

#[derive(Debug)]
struct Span {
    first: Timestamp,
    last: Timestamp,
    signs: u64,
    /// Changed since it was written.
    changed: bool,
}

impl Sightings {
    /// A sensor had proof that the device is near.
    pub fn saw(&mut self, device: &Device, at: Timestamp) {
        match self.now.get_mut(device) {
            // A clock that was set back ends it too.
            Some(span) if (span.last..=span.last + SILENCE).contains(&at) => {
                (span.last, span.signs, span.changed) = (at, span.signs + 1, true);
            }
            _ => {
                let fresh = Span { first: at, last: at, signs: 1, changed: true };
                let old = self.now.insert(device.clone(), fresh).filter(|old| old.changed);
                if let Some(old) = old.filter(|_| self.ended.len() < ENDED) {
                    self.ended.push(old.heard(device));
                }
            }
        }
    }

    /// What has to be written since it was asked last. Asked again after [`WRITE_EVERY`]: a card is worn out by writing.
    pub fn take(&mut self) -> Vec<Heard> {
        let mut due = std::mem::take(&mut self.ended);
        for (device, span) in self.now.iter_mut().filter(|(_, span)| span.changed) {
            span.changed = false;
            due.push(span.heard(device));
        }
        due
    }

    /// A person is forgotten.
    pub(super) fn forget(&mut self, devices: &[Device]) {
        self.now.retain(|device, _| !devices.contains(device));
        self.ended.retain(|heard| !devices.contains(&heard.device));
    }
}

impl Span {
    fn heard(&self, device: &Device) -> Heard {
        Heard { device: device.clone(), first: self.first, last: self.last, signs: self.signs }
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::presence::MacAddr;

    use super::*;

    fn phone(n: u8) -> Device {
        Device::Mac(MacAddr([0x24, 0xda, 0x9b, 0, 0, n]))
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_795_000_000 + secs)
    }

    fn rows(sightings: &mut Sightings) -> Vec<(u64, u64, u64)> {
        let secs = |at: Timestamp| at.as_secs() - 1_795_000_000;
        sightings.take().into_iter().map(|heard| (secs(heard.first), secs(heard.last), heard.signs)).collect()
    }

    #[test]
    fn a_day_at_home_is_one_row_and_each_return_another() {
        let mut sightings = Sightings::default();
        (0..2880).for_each(|n| sightings.saw(&phone(1), at(n * 30)));
        assert_eq!(rows(&mut sightings), [(0, 86_370, 2880)]);
        assert_eq!(rows(&mut sightings), [], "nothing new");
        sightings.saw(&phone(1), at(86_370 + 300));
        sightings.saw(&phone(1), at(90_000));
        sightings.saw(&phone(2), at(90_000));
        assert_eq!(rows(&mut sightings), [(0, 86_670, 2881), (90_000, 90_000, 1), (90_000, 90_000, 1)]);
        sightings.saw(&phone(1), at(80_000));
        assert_eq!(rows(&mut sightings), [(80_000, 80_000, 1)], "the clock was set back");
    }

    #[test]
    fn what_cannot_be_written_does_not_grow_without_end_and_who_is_forgotten_is() {
        let mut sightings = Sightings::default();
        (0..10_000).for_each(|n| sightings.saw(&phone(1), at(n * 1000)));
        sightings.saw(&phone(2), at(0));
        sightings.forget(&[phone(1)]);
        assert_eq!(rows(&mut sightings), [(0, 0, 1)]);
        (0..10_000).for_each(|n| sightings.saw(&phone(1), at(n * 1000)));
        assert!(sightings.take().len() <= ENDED + 1);
    }
}
