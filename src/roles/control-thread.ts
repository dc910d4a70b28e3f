/**
 * Root and cluster of `hedgerow up`, on a thread of their own: a burst of scheduling or of SQLite never stalls the event
 * loop that carries flows. The agent talks to them over their real links, as it would on another machine.
 */
import { parentPort, workerData } from 'node:worker_threads'
import type { Config } from '../config.ts'
import { startCluster, startRoot } from './control.ts'
import { causeOf, explain, isMeshError } from '../core/errors.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { openLog } from '../core/kit/log.ts'
import type { FromControl, ToControl } from './up.ts'

interface ThreadData {
  folders: { root: string; cluster: string }
  config: Config
  version: string
}

const { folders, config, version } = workerData as ThreadData
const log = openLog(config.log)
const tell = (message: FromControl) => parentPort?.postMessage(message)

try {
  const life = new Lifetime()
  const root = life.use(await startRoot({ dir: folders.root, config: config.root, version }, log))
  // good for the first start; later ones know their certificate and leave it unused
  const token = root.part.clusterToken(config.cluster.name)
  const cluster = life.use(await startCluster({ dir: folders.cluster, config: config.cluster, version, token }, log))
  parentPort?.on('message', (message: ToControl) => {
    switch (message) {
      case 'node token':
        return tell({ kind: 'token', token: cluster.part.nodeToken() })
      case 'close':
        return void life.close().then(
          () => parentPort?.close(),
          (error: unknown) => {
            log.error('root and cluster did not close cleanly', { error })
            parentPort?.close()
          },
        )
      default:
        message satisfies never
    }
  })
  tell({ kind: 'up', root: root.summary(), cluster: cluster.summary(), clusterUrl: cluster.part.url })
} catch (error) {
  tell({
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
