//! A check at compile time that what is secret cannot be shown.

/// Fails to compile if the type implements one of the traits, such as `Debug` for a key: then there are two ways to read the call below, and
/// the compiler takes neither.
///
/// ```
/// struct Key([u8; 32]);
/// ginnel_identity::never_implements!(Key: std::fmt::Debug, std::fmt::Display, Clone);
/// ```
///
/// ```compile_fail
/// #[derive(Debug)]
/// struct Key([u8; 32]);
/// ginnel_identity::never_implements!(Key: std::fmt::Debug);
/// ```
#[macro_export]
macro_rules! never_implements {
    ($type:ty: $($trait:path),+ $(,)?) => {
        $(const _: fn() = || {
            trait Ambiguous<T> {
                fn here() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct Implements;
            impl<T: ?Sized + $trait> Ambiguous<Implements> for T {}
            let _ = <$type as Ambiguous<_>>::here;
        };)+
    };
}
