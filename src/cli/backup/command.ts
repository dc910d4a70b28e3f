import type { Command } from 'commander'
import { resolve } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import type { Context } from '../context.ts'
import { isData, printData } from '../output.ts'
import { say, note } from '../terminal.ts'

export function backupCommands(program: Command, context: () => Context): void {
  program
    .command('backup')
    .description(
      'save what cannot be made again of each role with this state directory, while they run: the certificate authority, keys, and what is deployed. The archive holds private keys',
    )
    .argument('<file>', 'the archive to write, for example hedgerow.tgz; - for standard output')
    .action(async (file: string) => {
      const here = context()
      if (file === '-' && process.stdout.isTTY)
        throw new MeshError('USAGE', { reason: 'an archive is not for a terminal', remedy: 'Name a file.' })
      const { backUp } = await import('./take.ts')
      const manifest = await backUp(here, file)
      if (file === '-') return
      if (isData(here)) return printData({ file: resolve(file), ...manifest }, here)
      const sizes = Object.values(manifest.files).map(({ size }) => size)
      const kib = Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / 1_024)
      say(`${resolve(file)}: ${manifest.roles.join(', ')}; ${sizes.length} files, ${kib} KiB before compression`)
      note('It holds private keys: keep it where only you can read it.')
    })
  program
    .command('restore')
    .description(
      'bring back what `hedgerow backup` has saved: the roles in the archive must be stopped. What was done after the backup is lost',
    )
    .argument('<file>', 'the archive')
    .option('--check', 'only look whether the archive is whole, and say what is in it')
    .option('--force', 'also where there is state of these roles: it is moved aside')
    .action(async (file: string, { check = false, force = false }: { check?: boolean; force?: boolean }) => {
      const here = context()
      const { restore } = await import('./restore.ts')
      const manifest = await restore(here, file, { isCheck: check, isForced: force })
      if (isData(here)) return await printData({ ...manifest, restored: !check }, here)
      const { at, version, host, roles } = manifest
      const what = `${roles.join(', ')} of ${host}, as of ${new Date(at).toISOString()} (hedgerow ${version})`
      say(check ? `whole: ${what}` : `restored: ${what}`)
      if (!check) note('Start the roles again. Do not start those that were there before as well.')
    })
}
