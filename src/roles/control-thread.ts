/**
 * Root and cluster of `hedgerow up`, on a thread of their own: a burst of scheduling or of SQLite never stalls the event
 * loop that carries flows. The agent talks to them over their real links, as it would on another machine.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { startCluster, startRoot } from './control.ts'
import type { ControlData, FromControl, ToControl } from './control-worker.ts'
import { causeOf, explain, isMeshError } from '../core/errors.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { openLog } from '../core/kit/log.ts'
import { ownListeners } from '../core/kit/own-listeners.ts'

const send = (message: FromControl) => parentPort?.postMessage(message)
const { folders, config, version } = workerData as ControlData
// the main thread writes the lines of both: one writer, one bound
const log = openLog(config.log, { write: (line) => send({ kind: 'log', line }) })
const life = new Lifetime()
life.defer(ownListeners.onChange(() => send({ kind: 'listeners', listeners: ownListeners.list() })))

try {
  const root = life.use(await startRoot({ dir: folders.root, config: config.root, version }, log))
  const token = clusterToken(root)
  const joined = { dir: folders.cluster, config: config.cluster, version }
  const cluster = life.use(await startCluster(token === undefined ? joined : { ...joined, token }, log))
  parentPort?.on('message', (message: ToControl) => {
    switch (message.kind) {
      case 'node token':
        return send({ kind: 'token', token: cluster.part.nodeToken() })
      case 'log level':
        return log.setLevel(message.level)
      case 'close':
        return void close()
      default:
        message satisfies never
    }
  })
  send({ kind: 'up', root: root.summary(), cluster: cluster.summary(), clusterUrl: cluster.part.url })
} catch (error) {
  await life.close().catch(() => undefined) // the first failure is the one to report
  send({
    kind: 'failed',
    ...(isMeshError(error)
      ? {
          code: error.code,
          details: { ...error.details },
          cause: causeOf(error),
        }
      : { cause: explain(error) }),
  })
  parentPort?.close()
}

/** Needed at the first start; later ones have a certificate and leave it unused, so that they succeed on a full disk too. */
function clusterToken({ part }: Awaited<ReturnType<typeof startRoot>>): string | undefined {
  try {
    return part.clusterToken(config.cluster.name)
  } catch (error) {
    const hasJoined = existsSync(join(folders.cluster, 'identity'))
    if (hasJoined && isMeshError(error, 'DISK_FULL')) return undefined
    throw error
  }
}

async function close(): Promise<void> {
  try {
    await life.close()
  } catch (error) {
    log.error('root and cluster did not close cleanly', { error })
  }
  parentPort?.close()
}
