import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { connect, createServer, type TLSSocket } from 'node:tls'
import type { NodeId } from '../../src/core/model/ids.ts'
import { Authority } from '../../src/core/identity/authority.ts'
import { SSL_OP_PRIORITIZE_CHACHA } from '../../src/core/identity/ciphers.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { Revocations } from '../../src/core/identity/revocation.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'

/** TLS 1.3 with certificates on both sides for a few nodes of one cluster, as small as the tunnel's bench needs it. */
export async function tlsFor(
  names: readonly string[],
  ciphers: Readonly<Record<string, string>> = {},
): Promise<Record<string, Secure>> {
  const dir = await mkdtemp(join(tmpdir(), 'hedgerow-tls-'))
  try {
    const authority = await Authority.open(dir)
    const principal = { role: 'cluster', mesh: authority.mesh, cluster: 'c' } as const
    const { keyPem, csrPem } = await createRequest(principal)
    const chain = await authority.issue(csrPem, principal)
    const cluster = {
      principal,
      ca: authority.ca,
      chain,
      key: keyPem,
      notAfter: new Date(),
      revocations: new Revocations(authority.ca),
      secureContext: () => {
        throw new Error('not used')
      },
      onRenewed: () => () => undefined,
    }
    const made: Record<string, Secure> = {}
    for (const node of names) {
      const request = await createRequest({ role: 'node', mesh: authority.mesh, cluster: 'c', node })
      const cert = await issueNode(cluster, request.csrPem, node)
      made[node] = secureWith({
        key: request.keyPem,
        cert,
        ca: authority.ca,
        minVersion: 'TLSv1.3',
        ciphers: ciphers[node],
      })
    }
    return made
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

interface Keys {
  key: string
  cert: string
  ca: string
  minVersion: 'TLSv1.3'
  ciphers: string | undefined
}

function secureWith(keys: Keys): Secure {
  return {
    connect: async (raw, node) => {
      const stream = connect({ ...keys, socket: raw.stream, checkServerIdentity: () => undefined })
      await met(stream, 'secureConnect')
      if (nodeOf(stream) !== node) throw new Error(`${nodeOf(stream)} answered`)
      return stream
    },
    accept: async (raw) => {
      const server = createServer({
        ...keys,
        requestCert: true,
        rejectUnauthorized: true,
        secureOptions: SSL_OP_PRIORITIZE_CHACHA,
      })
      const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>()
      server.once('secureConnection', resolve).once('tlsClientError', reject)
      server.emit('connection', raw.stream)
      const stream = await promise
      return { peer: nodeOf(stream), stream }
    },
  }
}

function met(stream: Duplex, event: string): Promise<void> {
  return new Promise((resolve, reject) => stream.once(event, () => resolve()).once('error', reject))
}

function nodeOf(stream: TLSSocket): NodeId {
  const uri = /URI:spiffe:\/\/[^/]+\/cluster\/([^/]+)\/node\/([^/,\s]+)/.exec(
    stream.getPeerCertificate().subjectaltname ?? '',
  )
  if (uri === null) throw new Error('no identity in the certificate')
  return `${uri[1]}/${uri[2]}`
}
