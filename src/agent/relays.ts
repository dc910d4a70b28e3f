import { join } from 'node:path'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import type { RelayCredentials } from '../../proxy/paths/relays/relayed-dialer.ts'
import { Relays, type RelaysOptions } from '../../proxy/paths/relays/relays.ts'
import type { Identity } from '../core/identity/contract.ts'
import { readIfThere, replace } from '../core/identity/files.ts'
import { mayRelay } from '../core/identity/principal.ts'
import { clientOptions, verifyServer } from '../core/identity/tls.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'

/*
 * Where others can reach us when they cannot dial us. Our cluster's own relay to begin with; then those it tells us of, which
 * are written down: after a start without a cluster we still find them.
 */

export interface RelayConnections {
  readonly relays: Relays
  /** The cluster says which there are. */
  readonly update: (urls: readonly string[]) => void
}

const FILE = 'relays.json'
const saved = Compile(Type.Array(Type.String({ pattern: '^wss://', maxLength: 500 }), { maxItems: 64 }))

export async function openRelays(
  { life, dir, clock, log }: AgentContext,
  member: NodeIdentity,
  taking: Pick<RelaysOptions, 'onConnection' | 'onSignal' | 'onWelcome' | 'onChange'>,
): Promise<RelayConnections> {
  const path = join(dir, FILE)
  const own = `${member.url.replace(/^http/, 'ws')}/relay`
  const urls = await known(path)
  const credentials = () => relayCredentials(member)
  const relays = life.use(
    await Relays.start({ urls: urls.length > 0 ? urls : [own], credentials, clock, ...taking }, log),
  )
  let writing = Promise.resolve()
  return {
    relays,
    update: (told) => {
      if (told.length === 0) return
      relays.update(told)
      writing = writing
        .then(() => replace(path, JSON.stringify(told)))
        .catch((error: unknown) => log.warn('the list of relays cannot be saved', { error }))
    },
  }
}

/** How the node proves itself to relays, and what they must be: a cluster or a relay of this mesh. */
export function relayCredentials({
  identity,
  egress,
}: Pick<NodeIdentity, 'identity' | 'egress'>): ReturnType<RelayCredentials> {
  const isRelay = (principal: Identity['principal']) =>
    mayRelay(principal) && principal.mesh === identity.principal.mesh
  return { tls: clientOptions(identity, isRelay), verify: verifyServer(isRelay, identity.revocations), egress }
}

/** A copy of what the cluster says: a damaged one is as good as none. */
async function known(path: string): Promise<readonly string[]> {
  try {
    const urls: unknown = JSON.parse((await readIfThere(path)) ?? '[]')
    return saved.Check(urls) ? urls : []
  } catch {
    return []
  }
}
