import { useMemo, useState } from 'preact/hooks'
import { Badge, Meter } from '../parts/badge.tsx'
import { Chips, Search } from '../parts/search.tsx'
import { type Column, Table } from '../parts/table.tsx'
import type { Mesh } from '../model/mesh.ts'
import { hashOf } from '../model/route.ts'
import { type ServiceFilter, serviceViews, shownServices, type ServiceView } from '../model/services.ts'
import { coresText, memoryText, nameParts } from '../model/text.ts'
import { InstancePanel } from './instance.tsx'
import { ServicePanel } from './service.tsx'
import { Name } from '../parts/name.tsx'

export const VERSIONS_SHOWN = 3

const COLUMNS: readonly Column<ServiceView>[] = [
  { head: 'Service', width: 'minmax(150px, 1.6fr)', cell: ({ row }) => <Name {...nameParts(row.id)} /> },
  { head: 'State', width: 'minmax(112px, .8fr)', cell: ({ tone, word }) => <Badge tone={tone}>{word}</Badge> },
  {
    head: 'Ready',
    width: '96px',
    cell: ({ ready, wanted, tone }) => (
      <Meter share={wanted === 0 ? 0 : Math.min(1, ready / wanted)} text={`${ready}/${wanted}`} tone={tone} />
    ),
  },
  {
    head: 'Updated',
    width: '76px',
    isExtra: true,
    cell: ({ updated, wanted }) => `${updated}/${wanted}`,
  },
  { head: 'Versions', width: '110px', isExtra: true, cell: (view) => versionsText(view) },
  { head: 'CPU', width: '64px', isExtra: true, isNumber: true, cell: ({ cpu }) => coresText(cpu) },
  { head: 'Memory', width: '84px', isExtra: true, isNumber: true, cell: ({ memoryMb }) => memoryText(memoryMb) },
  {
    head: 'Detail',
    width: 'minmax(140px, 2fr)',
    isExtra: true,
    cell: ({ row }) => <span class="two muted">{row.detail ?? ''}</span>,
  },
]

export function versionsText({ versions }: ServiceView): string {
  if (versions.length === 0) return '–'
  if (versions.length === 1) return `${versions[0]?.generation ?? ''}`
  const some = versions.slice(0, VERSIONS_SHOWN).map(({ generation, count }) => `${generation} × ${count}`)
  return versions.length > VERSIONS_SHOWN ? `${some.join(', ')}, …` : some.join(', ')
}

export function Services({ mesh, open, now }: { mesh: Mesh; open: string | undefined; now: number }) {
  const { services, instances } = mesh
  const [typed, setTyped] = useState('')
  const [filter, setFilter] = useState<ServiceFilter>('all')
  const views = useMemo(() => serviceViews(services, instances), [services, instances])
  const shown = useMemo(() => shownServices(views, typed, filter), [views, typed, filter])
  const count = (one: ServiceFilter) => shownServices(views, '', one).length
  const service = open?.split('.').slice(0, 4).join('.')
  const opened = views.find(({ row }) => row.id === service)
  return (
    <div class={open === undefined ? 'view' : 'view beside'}>
      <div class="list">
        <div class="tools">
          <p class="title" aria-hidden="true">
            Services
          </p>
          <Search label="Find a service" value={typed} change={setTyped} />
          <Chips
            label="Which services"
            chosen={filter}
            choose={setFilter}
            chips={[
              { value: 'all', text: 'All', count: views.length },
              { value: 'trouble', text: 'Trouble', count: count('trouble') },
              { value: 'changing', text: 'Changing', count: count('changing') },
            ]}
          />
        </div>
        <Table
          label="Services"
          columns={COLUMNS}
          rows={shown}
          keyOf={({ row }) => row.id}
          linkOf={({ row }) => hashOf({ view: 'services', open: row.id })}
          rowPx={56}
          chosen={service}
          isNarrow={open !== undefined}
          empty={
            views.length === 0 ? (
              <>
                <b>No services yet.</b> <a href={hashOf({ view: 'deploy' })}>Deploy a document</a>, or run{' '}
                <code>hedgerow apply -f FILE</code>.
              </>
            ) : (
              'No service fits what was typed.'
            )
          }
        />
      </div>
      {open === undefined || service === undefined ? undefined : open === service ? (
        <ServicePanel id={service} view={opened} mesh={mesh} now={now} />
      ) : (
        <InstancePanel id={open} mesh={mesh} now={now} />
      )}
    </div>
  )
}
