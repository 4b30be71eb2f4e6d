//! What people see of DMS3: mails, and the dashboard.

#![forbid(unsafe_code)]

mod assets;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
pub mod house;
mod live;
pub mod mail;
mod page;
mod server;
pub mod templates;
mod view;

use std::io;
use std::net::TcpListener;

use tokio_util::sync::CancellationToken;

pub use assets::find as asset;
pub use page::{Authority, Settings};
pub use server::{Closed, Limits, Papers};
pub use view::node::Limits as HealthLimits;

/// Serves the dashboard of `house` until the stop.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    closed: Closed,
    settings: Settings,
    house: house::House,
    stop: CancellationToken,
) -> io::Result<()> {
    let papers = settings.papers.clone();
    let app = page::Page::new(house, settings).app();
    server::serve(listener, papers, (limits, closed), app, stop).await
}
