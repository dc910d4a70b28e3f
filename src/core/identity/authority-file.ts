import { MeshError } from '../errors.ts'
import { meshOf } from './authorities.ts'
import { certificatesIn, isKeyOf } from './x509.ts'

/** A private key and its self-signed certificate, PEM. */
export interface AuthorityKey {
  keyPem: string
  ca: string
}

export type AuthorityState =
  | { step: 'steady'; present: AuthorityKey }
  | { step: 'spreading' | 'issuing'; present: AuthorityKey; next: AuthorityKey }

/**
 * The root's file of authorities. Text between the blocks of a PEM file is for people, except this one line:
 *
 *     step: spreading | issuing     absent: steady
 *     key, certificate              the present authority
 *     key, certificate              the next one; only with a step
 */
export function printAuthority(state: AuthorityState): string {
  const blocks = ({ keyPem, ca }: AuthorityKey) => `${keyPem.trimEnd()}\n${ca.trimEnd()}\n`
  if (state.step === 'steady') return blocks(state.present)
  return `step: ${state.step}\n${blocks(state.present)}${blocks(state.next)}`
}

/** @throws MeshError STATE_CORRUPT */
export function parseAuthority(text: string, path: string): AuthorityState {
  try {
    const [, step] = /^step: (.*)$/m.exec(text) ?? []
    const pairs = pairsIn(text)
    const [present, next] = pairs
    if (present === undefined || pairs.length !== (step === undefined ? 1 : 2))
      throw new Error('expected one private key and one certificate, or two of each during a rotation')
    if (step === undefined || next === undefined) return { step: 'steady', present }
    if (step !== 'spreading' && step !== 'issuing') throw new Error('an unknown step')
    if (meshOf(next.ca) !== meshOf(present.ca)) throw new Error('authorities of two meshes')
    return { step, present, next }
  } catch (cause) {
    throw new MeshError('STATE_CORRUPT', { path }, { cause })
  }
}

function pairsIn(text: string): AuthorityKey[] {
  const keys = text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? []
  const certificates = certificatesIn(text)
  if (keys.length !== certificates.length) throw new Error('not as many keys as certificates')
  return certificates.map((certificate, at) => {
    const keyPem = keys[at] as string
    if (!certificate.ca || !certificate.verify(certificate.publicKey)) throw new Error('not an authority')
    if (!isKeyOf(keyPem, certificate)) throw new Error('the key does not belong to the certificate')
    return { keyPem, ca: certificate.toString() }
  })
}
