//! What a Service asks for, out of annotations and `spec.loadBalancerIP`.

use std::net::IpAddr;

use ferrolb_model::{AddressRequest, Family, FamilySet, RequestError, canonical};

/// The texts in which a Service can ask for something, each with the annotation key it was found under.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// The pool annotation: key and value.
    pub pool: Option<(&'a str, &'a str)>,
    /// The address annotation: key and value.
    pub addresses: Option<(&'a str, &'a str)>,
    /// `spec.loadBalancerIP`; empty means not set.
    pub load_balancer_ip: &'a str,
}

/// Reads the request. Blanks around items are ignored; an empty value asks for nothing.
///
/// # Errors
/// When a text is no address, when a family is asked for twice, or when both ways of asking are used at once.
pub fn request(texts: Texts<'_>) -> Result<AddressRequest, RequestError> {
    let annotation = texts.addresses.filter(|(_, value)| !value.trim().is_empty());
    let field_value = texts.load_balancer_ip.trim();
    let addresses = match (annotation, field_value) {
        (None, "") => Vec::new(),
        (Some((key, value)), "") => addresses(key, value)?,
        (None, value) => addresses("spec.loadBalancerIP", value)?,
        (Some((key, value)), other) => {
            return Err(RequestError::Both {
                field: key.to_owned(),
                value: value.to_owned(),
                other: other.to_owned(),
            });
        }
    };
    let pool = texts
        .pool
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty());
    Ok(AddressRequest {
        pool: pool.map(str::to_owned),
        addresses,
    })
}

/// A comma-separated list, at most one address of each family, IPv4 first in the outcome.
fn addresses(field: &str, text: &str) -> Result<Vec<IpAddr>, RequestError> {
    let mut list = Vec::new();
    for item in text.split(',').map(str::trim) {
        let address = item.parse::<IpAddr>().map_err(|_| RequestError::NotAnAddress {
            field: field.to_owned(),
            value: item.to_owned(),
        })?;
        list.push(canonical(address));
        let families = list.iter().map(|a| Family::of(*a)).collect::<FamilySet>();
        if families.len() < list.len() {
            return Err(RequestError::TooMany {
                field: field.to_owned(),
                value: text.to_owned(),
            });
        }
    }
    list.sort();
    Ok(list)
}
