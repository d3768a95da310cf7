//! Which addresses each Service claims.

use std::net::IpAddr;

use ferrolb_model::ServiceId;

/// Pairs of Service and address, in order. Most Services have one: a set for each would be mostly empty.
#[derive(Debug, Default)]
pub(crate) struct Claims(Vec<(ServiceId, IpAddr)>);

impl Claims {
    /// The Service claims the address.
    pub(crate) fn insert(&mut self, service: ServiceId, address: IpAddr) {
        let pair = (service, address);
        if let Err(at) = self.0.binary_search(&pair) {
            self.0.insert(at, pair);
        }
    }

    /// It does not any more.
    pub(crate) fn remove(&mut self, service: ServiceId, address: IpAddr) {
        if let Ok(at) = self.0.binary_search(&(service, address)) {
            self.0.remove(at);
        }
    }

    /// What the Service claims.
    pub(crate) fn of(&self, service: &ServiceId) -> Vec<IpAddr> {
        let first = self.0.partition_point(|(of, _)| of < service);
        let claims = self.0[first..].iter().take_while(|(of, _)| of == service);
        claims.map(|(_, address)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_own() {
        let (a, b, c) = (
            ServiceId::new("n", "a"),
            ServiceId::new("n", "b"),
            ServiceId::new("n", "c"),
        );
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut claims = Claims::default();
        let pairs = [
            (&a, "192.0.2.1"),
            (&b, "0.0.0.0"),
            (&b, "2001:db8::1"),
            (&b, "192.0.2.1"),
            (&c, "::"),
        ];
        for (service, address) in pairs {
            claims.insert(service.clone(), ip(address));
        }
        assert_eq!(claims.of(&a), [ip("192.0.2.1")]);
        assert_eq!(claims.of(&b), [ip("0.0.0.0"), ip("192.0.2.1"), ip("2001:db8::1")]);
        claims.remove(b.clone(), ip("192.0.2.1"));
        claims.remove(c.clone(), ip("192.0.2.1"));
        assert_eq!(claims.of(&b), [ip("0.0.0.0"), ip("2001:db8::1")]);
        assert_eq!(claims.of(&c), [ip("::")]);
        assert!(claims.of(&ServiceId::new("n", "d")).is_empty());
    }
}
