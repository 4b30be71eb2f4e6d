//! What people see of DMS3: today the mails, later the dashboard.

pub mod mail;
pub mod templates;
