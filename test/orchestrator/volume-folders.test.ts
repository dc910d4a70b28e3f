import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { Separation } from '../../src/orchestrator/worker/separation.ts'
import { VolumeFolders } from '../../src/orchestrator/worker/volume-folders.ts'
import { specOf } from './specs.ts'
import { noOtherUsers } from '../support/other-users.ts'

const RANGE = { first: 60_200, last: 60_209 }
const SPEC = specOf({ volumes: [{ volume_id: 'data', mount_path: '/data' }] })

function place() {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-volumes-'))
  chmodSync(dir, 0o755)
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) }
}

function ownerOf(path: string): number {
  return lstatSync(path).uid
}

t.test('a volume belongs to the app, and is one folder for all who name it', async (t) => {
  using here = place()
  const volumes = new VolumeFolders(join(here.dir, 'v'), undefined)
  const given = await volumes.give(SPEC, undefined)
  t.same(given, { path: join(here.dir, 'v/shop.acme'), folders: [join(here.dir, 'v/shop.acme/data')] })
  writeFileSync(join(here.dir, 'v/shop.acme/data/kept'), '')
  t.same(await volumes.give(SPEC, undefined), given)
  t.equal(await volumes.give(specOf({}), undefined), undefined, 'without volumes there is no folder')
})

t.test('a folder that cannot be made is told', async (t) => {
  using here = place()
  writeFileSync(join(here.dir, 'v'), '')
  await t.rejects(new VolumeFolders(join(here.dir, 'v'), undefined).give(SPEC, undefined), { code: 'RUNTIME_FAILED' })
})

t.test('what is in it passes to the next user, and what is of others does not', { skip: noOtherUsers }, async (t) => {
  using here = place()
  const volumes = new VolumeFolders(join(here.dir, 'v'), RANGE)
  const first = await volumes.give(SPEC, 60_200)
  const [data = ''] = first?.folders ?? []
  const [secret, deep] = [join(here.dir, 'secret'), join(data, 'a/b')]
  writeFileSync(secret, '')
  mkdirSync(join(data, 'a'))
  writeFileSync(deep, '')
  for (const path of [join(data, 'a'), deep]) chownSync(path, 60_200, 60_200)
  linkSync(secret, join(data, 'hard')) // as a program may where the kernel does not forbid it
  symlinkSync(secret, join(data, 'soft'))

  chmodSync(data, 0o777)
  if (first !== undefined) volumes.release(first)
  t.equal(lstatSync(data).mode & 0o777, 0o700, 'whatever its user has done')
  t.equal(ownerOf(data), 0, 'nobody may enter who is given that user next')
  await volumes.give(SPEC, 60_201)
  t.same([data, join(data, 'a'), deep].map(ownerOf), [60_201, 60_201, 60_201])
  t.equal(lstatSync(data).mode & 0o777, 0o700)
  t.equal(ownerOf(secret), 0, 'a link, hard or soft, passes on nothing of the machine’s')

  volumes.tidy(new Set([60_201]))
  t.equal(ownerOf(data), 60_201, 'a run has it')
  volumes.tidy(new Set())
  t.equal(ownerOf(data), 0, 'its agent was killed, and nothing is left of the run')
  t.equal(ownerOf(deep), 60_201)
})

t.test('what the operator has put into a new one is for its first user', { skip: noOtherUsers }, async (t) => {
  using here = place()
  mkdirSync(join(here.dir, 'v/shop.acme/data'), { recursive: true })
  writeFileSync(join(here.dir, 'v/shop.acme/data/given'), '')
  await new VolumeFolders(join(here.dir, 'v'), RANGE).give(SPEC, 60_202)
  t.equal(ownerOf(join(here.dir, 'v/shop.acme/data/given')), 60_202)
})

t.test('one that cannot be closed keeps its user, and stops nothing', { skip: noOtherUsers }, async (t) => {
  using here = place()
  const volumes = new VolumeFolders(join(here.dir, 'v'), RANGE)
  const program = spawn('sleep', ['60'], { uid: RANGE.first, stdio: 'ignore' })
  await once(program, 'spawn')
  try {
    const folder = `/proc/${program.pid}` // nobody can change its owner
    t.equal(volumes.release({ path: '/proc', folders: [folder] }), false)
    t.equal(ownerOf(folder), RANGE.first)
  } finally {
    program.kill('SIGKILL')
  }
  t.equal(volumes.release({ path: here.dir, folders: [join(here.dir, 'gone')] }), true, 'one that is gone')
})

t.test('a damaged trace of volumes is no trace of them', (t) => {
  const separation = Separation.none('a test')
  for (const volumes of ['{"path":"/v","folde', '3', 'null', '{"path":1,"folders":[]}', '{"path":"/v"}'])
    t.same(separation.keep({ volumes }), {}, volumes)
  const whole = { path: '/v', folders: ['/v/data'] }
  t.same(separation.keep({ volumes: JSON.stringify(whole) }), { volumes: whole })
  t.end()
})
