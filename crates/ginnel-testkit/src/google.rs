//! Google's services, as far as Ginnel calls them: written from the public definitions of their interfaces, with the faults that a test sets.
//!
//! Nothing in the product knows that they are not Google's: it is pointed at them by settings that operators have as well.

pub mod cas;
