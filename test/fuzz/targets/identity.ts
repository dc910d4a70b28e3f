import { sign, X509Certificate } from 'node:crypto'
import { isMeshError } from '../../../src/core/errors.ts'
import { authorityIds, joinAuthorities, meshOf, pathOf } from '../../../src/core/identity/authorities.ts'
import { parseAuthority, printAuthority } from '../../../src/core/identity/authority-file.ts'
import { HeldIdentity } from '../../../src/core/identity/held.ts'
import { createRequest } from '../../../src/core/identity/keys.ts'
import { parsePrincipal, printPrincipal } from '../../../src/core/identity/principal.ts'
import { provenPrincipal } from '../../../src/core/identity/proof.ts'
import { readRevocations, signRevocations } from '../../../src/core/identity/revocation-list.ts'
import { Revocations } from '../../../src/core/identity/revocation.ts'
import { signRequest } from '../../../src/core/identity/sign-request.ts'
import { parseToken } from '../../../src/core/identity/token.ts'
import {
  certificatesIn,
  CLUSTER_MS,
  createKeys,
  issuerKeyIdOf,
  newEnrolment,
  printKey,
  selfSign,
} from '../../../src/core/identity/x509.ts'
import type { FuzzTarget } from '../target.ts'

const token = `hedgerow-join.${Buffer.from(
  JSON.stringify({
    role: 'node',
    url: 'https://203.0.113.2:7471',
    fingerprint: '0123456789abcdef'.repeat(4),
    id: '0123456789abcdef',
    secret: 'A'.repeat(43),
  }),
).toString('base64url')}`

export const joinToken: FuzzTarget = {
  name: 'join-token',
  seeds: [Buffer.from(token), Buffer.from(`  ${token}\n`), Buffer.from('hedgerow-join.')],
  run(bytes) {
    try {
      return `accepted ${parseToken(bytes.toString('latin1')).role}`
    } catch (error) {
      if (isMeshError(error, 'TOKEN_INVALID')) return String(error.details['reason'])
      throw error
    }
  },
}

/** The same bytes as the JSON inside a token, so that mutations reach its keys and not only its base64. */
export const tokenContent: FuzzTarget = {
  name: 'join-token-content',
  seeds: [Buffer.from(Buffer.from(token.slice('hedgerow-join.'.length), 'base64url'))],
  run(bytes) {
    return joinToken.run(Buffer.from(`hedgerow-join.${bytes.toString('base64url')}`))
  },
}

export const principalUri: FuzzTarget = {
  name: 'principal-uri',
  seeds: ['root', 'cluster/edge', 'cluster/edge/node/n1', 'cluster/edge/relay/r-1'].map((path) =>
    Buffer.from(`spiffe://hedgerow-1a2b3c4d/${path}`),
  ),
  run(bytes) {
    const text = bytes.toString('latin1')
    const principal = parsePrincipal(text)
    if (principal === undefined) return 'refused'
    if (printPrincipal(principal) !== text) throw new Error('another URI stands for the same principal')
    return `accepted ${principal.role}`
  },
}

/* Keys are made anew for each run: an input that is kept holds its own, and is refused by those of another run as a stranger's. */

const MESH = 'hedgerow-1a2b3c4d'

async function authority() {
  const keys = await createKeys()
  return { keyPem: await printKey(keys.privateKey), ca: await selfSign(keys, MESH, Date.now()) }
}

const present = await authority()
const next = await authority()
const issuer = { keyPem: present.keyPem, certificatePem: present.ca }
const CLUSTER = { role: 'cluster', mesh: MESH, cluster: 'edge' } as const
const NODE = { role: 'node', mesh: MESH, cluster: 'edge', node: 'n1' } as const
const term = () => ({ lifeMs: CLUSTER_MS, now: Date.now(), enrolment: newEnrolment() })
const clusterRequest = await createRequest(CLUSTER)
const clusterPem = signRequest(issuer, clusterRequest.csrPem, CLUSTER, term())
const nodeRequest = await createRequest(NODE)
const nodePem = signRequest(
  { keyPem: clusterRequest.keyPem, certificatePem: clusterPem },
  nodeRequest.csrPem,
  NODE,
  term(),
)
const chain = `${nodePem}\n${clusterPem}\n`
const texts = (...all: string[]) => all.map((text) => Buffer.from(text))

/** The root's own file: a disk may have damaged it, and it holds both authorities while one follows the other. */
export const authorityFile: FuzzTarget = {
  name: 'authority-file',
  seeds: texts(
    printAuthority({ step: 'steady', present }),
    printAuthority({ step: 'spreading', present, next }),
    printAuthority({ step: 'issuing', present, next }),
  ),
  run(bytes) {
    try {
      const state = parseAuthority(bytes.toString('latin1'), 'authority.pem')
      const again = parseAuthority(printAuthority(state), 'authority.pem')
      if (again.step !== state.step || again.present.ca !== state.present.ca)
        throw new Error('it is printed as another')
      return `accepted ${state.step}`
    } catch (error) {
      if (isMeshError(error, 'STATE_CORRUPT')) return `refused: ${(error.cause as Error).message.slice(0, 40)}`
      throw error
    }
  },
}

/** The authorities to trust, as a signed list names them. */
export const authorityBundle: FuzzTarget = {
  name: 'authority-bundle',
  seeds: texts(present.ca, `${present.ca}\n${next.ca}`, `${present.ca}\f${next.ca}`, chain),
  run(bytes) {
    try {
      const joined = joinAuthorities(bytes.toString('latin1').split('\f'), MESH)
      if (meshOf(joined) !== MESH) throw new Error('authorities of another mesh')
      return `accepted ${authorityIds(joined).length}`
    } catch (error) {
      if (isMeshError(error, 'STATE_CORRUPT')) return 'refused'
      throw error
    }
  },
}

/** The list as a peer passes it on: whatever it is, nothing is thrown but that it is no such list. */
export const revocationList: FuzzTarget = {
  name: 'revocation-list',
  seeds: texts(
    signRevocations([present.keyPem], { number: 1, entries: [] }),
    signRevocations([present.keyPem, next.keyPem], {
      number: 2,
      entries: [{ kind: 'enrolment', id: '0123456789abcdef', until: 9e12, principal: `${MESH}/edge/n1` }],
      authorities: [present.ca, next.ca],
    }),
  ),
  run: (bytes) => offered(bytes.toString('utf8')),
}

/** The same bytes as the list inside the signature of the authority itself, so that mutations reach what it says. */
export const revocationListContent: FuzzTarget = {
  name: 'revocation-list-content',
  seeds: texts(
    JSON.stringify({ number: 3, entries: [{ kind: 'issuer', id: 'ab'.repeat(20), until: 1, principal: 'x' }] }),
    JSON.stringify({ number: 4, entries: [], authorities: [present.ca] }),
    JSON.stringify({ number: 5, entries: [], authorities: [present.ca, next.ca] }),
  ),
  run(bytes) {
    const outer = JSON.parse(signRevocations([present.keyPem], { number: 1, entries: [] })) as { list: string }
    const text = bytes.toString('utf8')
    const signature = sign('sha256', Buffer.from(`hedgerow revocations 1\n${text}`), present.keyPem).toString('base64')
    return offered(JSON.stringify({ ...outer, list: text, signature }))
  },
}

function offered(text: string): string {
  const revocations = new Revocations(present.ca)
  try {
    const isTaken = revocations.offer(text)
    if (meshOf(revocations.authorities) !== MESH) throw new Error('it trusts another mesh')
    if (isTaken !== revocations.number > 0) throw new Error('it was taken and was not')
    if (isTaken && readRevocations(text, present.ca).number !== revocations.number) throw new Error('another number')
    return isTaken ? `taken, ${authorityIds(revocations.authorities).length} authorities` : 'not newer'
  } catch (error) {
    if (!isMeshError(error, 'STATE_CORRUPT')) throw error
    if (revocations.number > 0) throw new Error('it was refused and was taken', { cause: error })
    return `refused: ${String(error.details['reason'])}`
  }
}

/** What a joining machine asks to have signed. Only its key counts. */
export const certificateRequest: FuzzTarget = {
  name: 'certificate-request',
  seeds: texts(nodeRequest.csrPem, clusterRequest.csrPem),
  run(bytes) {
    try {
      const [signed] = certificatesIn(signRequest(issuer, bytes.toString('latin1'), CLUSTER, term()))
      if (signed === undefined || provenPrincipal(signed).role !== 'cluster')
        throw new Error('it was signed for another')
      return 'signed'
    } catch (error) {
      if (isMeshError(error, 'CERTIFICATE_REFUSED')) return `refused: ${String(error.details['reason'])}`
      throw error
    }
  },
}

const withIssuerRevoked = new Revocations(present.ca)
withIssuerRevoked.offer(
  signRevocations([present.keyPem], {
    number: 1,
    entries: [{ kind: 'issuer', id: 'ab'.repeat(20), until: 9e12, principal: `${MESH}/edge` }],
  }),
)

/** A certificate as TLS hands it on, DER: here without a proof that it belongs to the mesh. */
export const certificate: FuzzTarget = {
  name: 'certificate',
  seeds: [nodePem, clusterPem, present.ca].map((pem) => Buffer.from(new X509Certificate(pem).raw)),
  run(bytes) {
    let parsed: X509Certificate
    try {
      parsed = new X509Certificate(bytes)
    } catch {
      return 'no certificate'
    }
    const hasIssuer = issuerKeyIdOf(parsed) !== undefined
    const named = hasIssuer ? 'with' : 'without'
    if (!hasIssuer && !parsed.ca && !withIssuerRevoked.isRevoked(parsed))
      throw new Error('whoever signed it, it counts')
    try {
      return `${provenPrincipal(parsed).role}, ${named} the key of its issuer`
    } catch (error) {
      if (isMeshError(error, 'PEER_REFUSED')) return `refused, ${named} the key of its issuer`
      throw error
    }
  },
}

/** A chain as an issuer answers it, or as it was saved. */
export const chainText: FuzzTarget = {
  name: 'certificate-chain',
  seeds: texts(chain, nodePem, `${chain}${present.ca}`),
  run(bytes) {
    const text = bytes.toString('latin1')
    try {
      const identity = HeldIdentity.inMemory({ keyPem: nodeRequest.keyPem, chain: text, ca: present.ca })
      if (identity.principal.role !== 'node' || identity.isRevoked) throw new Error('a chain for another')
      const path = pathOf(certificatesIn(text), present.ca)
      return `accepted ${path?.certificates.length}`
    } catch (error) {
      if (isMeshError(error, 'CERTIFICATE_REFUSED')) return `refused: ${(error.cause as Error).message.slice(0, 30)}`
      throw error
    }
  },
}
