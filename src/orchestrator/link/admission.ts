import { MeshError } from '../../core/errors.ts'
import { newEnrolment } from '../../core/identity/x509.ts'
import type { JoinTokens } from './join-tokens.ts'

/** What an issuer does for whoever joins. `subject` is what the token was made for: the name of a cluster. */
export interface Issuing {
  /** @throws MeshError TOKEN_REFUSED when the name belongs to somebody who is there */
  refuseIfTaken: (subject: string) => void
  /** The enrolment of the member of that name. */
  enrolmentOf: (subject: string) => string | undefined
  /** Signs the certificate, and keeps nothing. */
  sign: (subject: string, enrolment: string) => Promise<string>
  /** Writes the member down, in the transaction that uses up the token. */
  record: (subject: string, enrolment: string, chain: string) => void
}

export interface Admitted {
  subject: string
  enrolment: string
  chain: string
  /** `false`: it had joined already, and is answered again. */
  isNew: boolean
}

/**
 * Lets whoever holds a join token in, once; and whoever did not get the answer gets it again.
 *
 *   token unused ─▶ sign ─▶ used up and recorded, in one transaction ─▶ the certificate
 *         │                      │ meanwhile used by the same request
 *         │ used by the same     ▼
 *         └─ request ─────────▶ sign again for the same enrolment ────▶ the certificate
 *
 * The same request is the same text: name and certificate request, which proves a key that only its holder has. Every other one is
 * refused, as is one whose member was removed or replaced since.
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, CERTIFICATE_REFUSED
 */
export async function admit(
  tokens: JoinTokens,
  { token, request }: { token: string; request: string },
  issuing: Issuing,
): Promise<Admitted> {
  const { subject, joined } = tokens.check(token, request) // cheap, so it comes before anything is signed
  if (joined !== undefined) return again(subject, joined, issuing)
  issuing.refuseIfTaken(subject)
  const enrolment = newEnrolment()
  const chain = await issuing.sign(subject, enrolment)
  const first = tokens.consume(token, { request, enrolment }, () => {
    issuing.refuseIfTaken(subject)
    issuing.record(subject, enrolment, chain)
  })
  return first === enrolment ? { subject, enrolment, chain, isNew: true } : again(subject, first, issuing)
}

async function again(subject: string, enrolment: string, { enrolmentOf, sign }: Issuing): Promise<Admitted> {
  const refuseIfGone = () => {
    if (enrolmentOf(subject) !== enrolment)
      throw new MeshError('TOKEN_REFUSED', { reason: 'who joined with it was removed or replaced since' })
  }
  refuseIfGone()
  const chain = await sign(subject, enrolment)
  refuseIfGone()
  return { subject, enrolment, chain, isNew: false }
}
