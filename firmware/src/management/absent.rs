//! In place of the management port in images without it.

use culvert_core::channel::{BoardRefusal, FrameEvent, KEY_LEN, Management as Config};
use culvert_core::{Frame, Instant};

use super::Powers;
use crate::plane::Exit;
use crate::{Board, Pool};

/// No management port.
pub(crate) struct Management;

/// Refuses all addresses.
pub(crate) fn check(_: &Config) -> Result<(), BoardRefusal> {
    Err(BoardRefusal::NoManagement)
}

impl Management {
    pub(crate) fn new(_: &mut impl Board, _: &mut Pool) -> Self {
        Management
    }

    pub(crate) fn powers(&self) -> Powers {
        Powers {
            authentication: Err(BoardRefusal::NoManagement),
            refused: 0,
        }
    }

    pub(crate) fn configure(&mut self, _: &Config) {}

    pub(crate) fn set_key(&mut self, _: Option<[u8; KEY_LEN]>) {}

    #[inline]
    pub(crate) fn take(&mut self, frame: Frame<'static>) -> Result<(), Frame<'static>> {
        Err(frame)
    }

    #[inline]
    pub(crate) fn listen(&mut self, _: &mut impl Board, _: &mut Exit, _: Instant) {}

    #[inline]
    pub(crate) fn converse(&mut self, _: impl FnOnce(&FrameEvent<'_>, &mut [u8]) -> usize) -> bool {
        false
    }

    #[inline]
    pub(crate) fn send(&mut self, _: &mut impl Board, _: &mut Exit, _: (Instant, bool)) -> bool {
        false
    }

    #[inline]
    pub(crate) fn due(&self) -> Option<Instant> {
        None
    }
}
