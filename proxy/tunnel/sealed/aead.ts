import { FEATURE } from '../wire/hello.ts'
import type { SealedCarrier } from './contract.ts'

/** What packets are sealed with. Keys (32 bytes), nonces (12) and tags (16) of both have the same lengths. */
export type Aead = 'aes-256-gcm' | 'chacha20-poly1305'

/** As people write them. */
export const AEAD_NAMES: Readonly<Record<Aead, string>> = {
  'aes-256-gcm': 'AES-256-GCM',
  'chacha20-poly1305': 'ChaCha20-Poly1305',
}

const CHACHA = 'TLS_CHACHA20_POLY1305_SHA256'

/**
 * ChaCha20 where the carrier's TLS has it: TLS chose by what both machines can (core/identity/ciphers.ts), and both ends see the
 * same. Nodes that do not know it seal with AES on any carrier.
 */
export function aeadOf({ cipher, peerFeatures }: Pick<SealedCarrier, 'cipher' | 'peerFeatures'>): Aead {
  return cipher === CHACHA && (peerFeatures & FEATURE.chacha20) !== 0 ? 'chacha20-poly1305' : 'aes-256-gcm'
}
