import type * as X509 from '@peculiar/x509'
import { createRequire } from 'node:module'

let loaded: typeof X509 | undefined

/**
 * What makes certificates and requests, and reads of them what Node does not show. Loaded when it is first needed: it is half of what an
 * agent would load, and one that has joined starts without it.
 */
export function x509Library(): typeof X509 {
  return (loaded ??= load())
}

function load(): typeof X509 {
  const require = createRequire(import.meta.url) // the build leaves this line out, and takes in what is required
  require('reflect-metadata') // without it, the next one throws
  const library = require('@peculiar/x509') as typeof X509
  library.cryptoProvider.set(globalThis.crypto)
  return library
}
