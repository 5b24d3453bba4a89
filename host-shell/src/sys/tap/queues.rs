//! Devices with several queues, each a descriptor of its own: the kernel spreads the
//! frames that leave the interface over them by flow, and lets a flow follow the queue
//! that the frames of its other direction were written to.

use super::{Tap, TapError, TapOptions, open_control, set_interface, setup_error};

impl Tap {
    /// As [`Tap::create`], with so many queues. A device that was made with one can never
    /// have more.
    ///
    /// # Errors
    /// As [`Tap::create`].
    ///
    /// # Panics
    /// When `queues` is 0.
    pub fn create_queues(
        name: &str,
        options: TapOptions,
        queues: usize,
    ) -> Result<Vec<Self>, TapError> {
        assert!(queues > 0, "a device has at least one queue");
        if queues == 1 {
            return Ok(vec![Self::create(name, options)?]);
        }
        let first = Self::create_as(name, options, libc::IFF_MULTI_QUEUE)?;
        first.with_further(options, queues)
    }

    /// As [`Tap::attach`], to so many queues of the device: of one that was made with
    /// one queue there is only that one.
    ///
    /// # Errors
    /// As [`Tap::attach`].
    ///
    /// # Panics
    /// When `queues` is 0.
    pub fn attach_queues(
        name: &str,
        options: TapOptions,
        queues: usize,
    ) -> Result<Vec<Self>, TapError> {
        assert!(queues > 0, "a device has at least one queue");
        let first = Self::attach(name, options)?;
        match first.has_queues()? {
            true => first.with_further(options, queues),
            false => Ok(vec![first]),
        }
    }

    /// Another descriptor of the same queue.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn try_clone(&self) -> Result<Self, TapError> {
        let fd = self.fd.try_clone().map_err(|source| TapError::Setup {
            name: self.name.clone(),
            action: "make another descriptor",
            source,
        })?;
        Ok(Self {
            fd,
            name: self.name.clone(),
        })
    }

    /// Whether the device can have several queues.
    fn has_queues(&self) -> Result<bool, TapError> {
        let state = super::interface_of(&self.fd)
            .map_err(|errno| setup_error(&self.name, "read the state", errno))?;
        Ok(state.has(libc::IFF_MULTI_QUEUE))
    }

    /// This queue and further ones, so many together. The device is there as long as
    /// this one is.
    fn with_further(self, options: TapOptions, queues: usize) -> Result<Vec<Self>, TapError> {
        let mut all = vec![self];
        while all.len() < queues {
            let queue = all[0].another(options)?;
            all.push(queue);
        }
        Ok(all)
    }

    fn another(&self, options: TapOptions) -> Result<Self, TapError> {
        let fd = open_control()?;
        match set_interface(&fd, &self.name, libc::IFF_MULTI_QUEUE)? {
            Ok(()) => {}
            Err(errno) => return Err(setup_error(&self.name, "add a queue", errno)),
        }
        let queue = Self {
            fd,
            name: self.name.clone(),
        };
        queue.configure(options)?;
        Ok(queue)
    }
}
