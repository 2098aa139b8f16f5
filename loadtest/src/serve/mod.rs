//! Servers to be measured beside the others.

#[cfg(feature = "axum")]
mod by_hand;
mod commit;
mod floor;

#[cfg(feature = "axum")]
pub(crate) use by_hand::serve as axum;
pub(crate) use floor::serve as floor;
