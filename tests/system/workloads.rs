//! Images, kits, kernels and real programs.

mod aarch64;
mod databases;
mod docker;
mod images;
mod kernel;
mod kits;
mod kvm;
mod repair;
