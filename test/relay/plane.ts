import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readCredential, RootClient } from '../../src/client/root-client.ts'
import { defaults } from '../../src/config/defaults.ts'
import type { RelayConfig } from '../../src/config/schema.ts'
import { startCluster, startRoot } from '../../src/roles/control.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { HeldIdentity as Held } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { enrolNode } from '../../src/orchestrator/worker/join.ts'
import { startRelay, type RelayParts } from '../../src/roles/relay.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { until } from '../support/until.ts'

const VERSION = '0.0.0-test'

/** A root and a cluster as users run them, for stand-alone relays to join. */
export class Plane implements AsyncDisposable {
  readonly dir: string
  readonly #life: Lifetime
  readonly #root: Awaited<ReturnType<typeof startRoot>>
  readonly cluster: Awaited<ReturnType<typeof startCluster>>

  private constructor(dir: string, life: Lifetime, root: Plane['root'], cluster: Plane['cluster']) {
    this.dir = dir
    this.#life = life
    this.#root = root
    this.cluster = cluster
  }

  static start(): Promise<Plane> {
    return Lifetime.open(async (life) => {
      const dir = mkdtempSync(join(tmpdir(), 'hedgerow-plane-'))
      life.defer(() => rmSync(dir, { recursive: true, force: true }))
      const config = defaults('test')
      const any = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' }
      const root = life.use(
        await startRoot({ dir: join(dir, 'root'), config: { ...config.root, ...any }, version: VERSION }, silentLog),
      )
      const cluster = life.use(
        await startCluster(
          {
            dir: join(dir, 'cluster'),
            config: { ...config.cluster, ...any },
            version: VERSION,
            token: root.part.clusterToken('edge'),
          },
          silentLog,
        ),
      )
      await until(() => cluster.part.isLinked)
      return new Plane(dir, life, root, cluster)
    })
  }

  get root(): Awaited<ReturnType<typeof startRoot>> {
    return this.#root
  }

  get api(): RootClient {
    return new RootClient(readCredential(join(this.dir, 'root', 'admin.json')))
  }

  /** A certificate, and nothing more: the cluster has not heard of it. */
  async identity(node: string): Promise<HeldIdentity> {
    const { identity } = this.cluster.part
    const { principal } = identity
    if (principal.role !== 'cluster') throw new Error('not a cluster')
    const { keyPem, csrPem } = await createRequest({ ...principal, role: 'node', node })
    return Held.inMemory({ keyPem, chain: await issueNode(identity, csrPem, node), ca: identity.ca })
  }

  /** A node that joined with a token. */
  async member(name: string): Promise<{ identity: HeldIdentity; url: string }> {
    const token = this.cluster.part.nodeToken()
    return enrolNode({ dir: join(this.dir, `node-${name}`), name, token }, AbortSignal.timeout(30_000))
  }

  async relayConfig(name: string, more: Partial<RelayConfig> = {}): Promise<RelayConfig> {
    const { relay } = defaults(name)
    return { ...relay, listen: `127.0.0.1:${await freePort()}`, opsListen: '127.0.0.1:0', ...more }
  }

  /** A stand-alone relay in this process. */
  async relay(config: RelayConfig, more: Partial<RelayParts> = {}) {
    const dir = join(this.dir, `relay-${config.name}`)
    return startRelay({ dir, config, version: VERSION, ...more }, silentLog)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}
