import type * as Asn1Csr from '@peculiar/asn1-csr'
import type * as Asn1Schema from '@peculiar/asn1-schema'
import type * as Asn1X509 from '@peculiar/asn1-x509'
import type * as X509 from '@peculiar/x509'
import { createRequire } from 'node:module'

let loaded: typeof X509 | undefined
let parts: Asn1Library | undefined

/** What `x509Library` is made of: certificates and requests as they are written. */
export interface Asn1Library {
  schema: typeof Asn1Schema
  x509: typeof Asn1X509
  csr: typeof Asn1Csr
}

/**
 * What makes certificates and requests, and reads of them what Node does not show. Loaded when it is first needed: it is half of what an
 * agent would load, and one that has joined starts without it.
 */
export function x509Library(): typeof X509 {
  return (loaded ??= load())
}

export function asn1Library(): Asn1Library {
  return (parts ??= loadParts())
}

function loadParts(): Asn1Library {
  const require = createRequire(import.meta.url) // the build leaves this line out, and takes in what is required
  return {
    schema: require('@peculiar/asn1-schema') as typeof Asn1Schema,
    x509: require('@peculiar/asn1-x509') as typeof Asn1X509,
    csr: require('@peculiar/asn1-csr') as typeof Asn1Csr,
  }
}

function load(): typeof X509 {
  const require = createRequire(import.meta.url) // the build leaves this line out, and takes in what is required
  require('reflect-metadata') // without it, the next one throws
  const library = require('@peculiar/x509') as typeof X509
  library.cryptoProvider.set(globalThis.crypto)
  return library
}
