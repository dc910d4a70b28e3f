import { join } from 'node:path'
import Type from 'typebox'
import { checkerOf } from '../core/kit/checker.ts'
import type { RelayCredentials } from '../../proxy/paths/relays/relayed-dialer.ts'
import { Relays, type RelaysOptions } from '../../proxy/paths/relays/relays.ts'
import type { Identity } from '../core/identity/contract.ts'
import { mayRelay } from '../core/identity/principal.ts'
import { clientOptions, verifyServer } from '../core/identity/tls.ts'
import { KeptFile } from '../core/kit/kept-file.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'

/*
 * The relays at which others can reach this node when they cannot dial it: at first the cluster's own, then those that the
 * cluster reports. These are saved, so that an agent which starts without its cluster still finds them.
 */

export interface RelayConnections {
  readonly relays: Relays
  /** Takes the list that the cluster reports. */
  readonly update: (urls: readonly string[]) => void
}

const FILE = 'relays.json'
const saved = checkerOf(Type.Array(Type.String({ pattern: '^wss://', maxLength: 500 }), { maxItems: 64 }))

export async function openRelays(
  { life, dir, clock, log }: AgentContext,
  member: NodeIdentity,
  handlers: Pick<RelaysOptions, 'onConnection' | 'onSignal' | 'onWelcome' | 'onChange'>,
): Promise<RelayConnections> {
  const file = life.use(new KeptFile(join(dir, FILE), log, clock))
  const own = `${member.url.replace(/^http/, 'ws')}/relay`
  const urls = readSaved(file)
  const credentials = () => relayCredentials(member)
  const relays = life.use(
    await Relays.start({ urls: urls.length > 0 ? urls : [own], credentials, clock, ...handlers }, log),
  )
  return {
    relays,
    update: (reported) => {
      if (reported.length === 0) return
      relays.update(reported)
      void file.put(JSON.stringify(reported))
    },
  }
}

/** How the node authenticates to relays, and who may be one: a cluster or a relay of this mesh. */
export function relayCredentials({
  certificate,
  egress,
}: Pick<NodeIdentity, 'certificate' | 'egress'>): ReturnType<RelayCredentials> {
  const isRelay = (principal: Identity['principal']) =>
    mayRelay(principal) && principal.mesh === certificate.principal.mesh
  return { tls: clientOptions(certificate, isRelay), verify: verifyServer(isRelay, certificate.revocations), egress }
}

/** The saved list is only a copy: a damaged one counts as none. */
function readSaved(file: KeptFile): readonly string[] {
  const urls = file.readJson()
  return saved.Check(urls) ? urls : []
}
