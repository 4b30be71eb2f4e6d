//! What a person asks of the house: arm, disarm, decide by itself.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use dms3_core::arming::ArmState;
use dms3_core::coordinator::Command;
use dms3_core::request::Request;
use dms3_core::time::Timestamp;
use serde::Deserialize;

use super::Page;
use crate::gate::{Guest, Posted};
use crate::view::Clock;

/// When a morning begins.
const MORNING: i8 = 7;

#[derive(Deserialize)]
pub(super) struct Order {
    #[serde(default)]
    state: String,
    #[serde(default, rename = "for")]
    time: String,
    #[serde(default)]
    now: String,
    /// "1": coming and going does not end it.
    #[serde(default)]
    stays: String,
    #[serde(default)]
    back: String,
}

pub(super) async fn arm(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(order): Posted<Order>) -> Response {
    let state = match order.state.as_str() {
        "away" => ArmState::Away,
        "night" => ArmState::Night,
        other => {
            return page.trouble(
                Some(&guest),
                StatusCode::BAD_REQUEST,
                &format!("{other:?} is no state to arm to: away or night. Nothing was changed."),
            );
        }
    };
    match until(&order.time, &page.clock()) {
        Ok(until) => {
            command(&page, &guest, Command::Arm { state, until, now: order.now == "1", stays: order.stays == "1" }, &order.back).await
        }
        Err(why) => page.trouble(Some(&guest), StatusCode::BAD_REQUEST, &why),
    }
}

pub(super) async fn disarm(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(order): Posted<Order>) -> Response {
    match until(&order.time, &page.clock()) {
        Ok(until) => command(&page, &guest, Command::Disarm { until, stays: order.stays == "1" }, &order.back).await,
        Err(why) => page.trouble(Some(&guest), StatusCode::BAD_REQUEST, &why),
    }
}

pub(super) async fn auto(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(order): Posted<Order>) -> Response {
    command(&page, &guest, Command::Auto, &order.back).await
}

async fn command(page: &Page, guest: &Guest, command: Command, back: &str) -> Response {
    let answer = page.house.ask(Request::Command(command), &guest.visitor.name).await;
    page.answered(guest, back, answer)
}

/// Until when, of what the page offers; nothing: until somebody changes it.
fn until(time: &str, clock: &Clock) -> Result<Option<Timestamp>, String> {
    let hours = |hours: u64| Ok(Some(clock.now + std::time::Duration::from_secs(hours * 3600)));
    match time {
        "" => Ok(None),
        "1h" => hours(1),
        "2h" => hours(2),
        "8h" => hours(8),
        "morning" => Ok(clock.next(MORNING)),
        other => Err(format!("{other:?} is no time that this page offers. Nothing was changed.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::time::{at, berlin};

    #[test]
    fn an_order_ends_when_it_says_and_one_that_cannot_be_read_is_none() {
        let clock = berlin("2026-11-28T17:31:00Z");
        assert_eq!(until("", &clock), Ok(None));
        assert_eq!(until("2h", &clock), Ok(Some(at("2026-11-28T19:31:00Z"))));
        assert_eq!(until("morning", &clock), Ok(Some(at("2026-11-29T06:00:00Z"))));
        for unknown in ["3h", "0", "-1h", "for ever"] {
            assert!(until(unknown, &clock).is_err());
        }
    }
}
