import { isMeshError } from '../../../src/core/errors.ts'
import { parsePrincipal, printPrincipal } from '../../../src/core/identity/principal.ts'
import { parseToken } from '../../../src/core/identity/token.ts'
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
