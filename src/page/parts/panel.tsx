import type { ComponentChildren } from 'preact'
import { useEffect } from 'preact/hooks'
import { Icon } from './icon.tsx'

interface Props {
  title: string
  within?: string
  /** The address without the panel. */
  close: string
  beside?: ComponentChildren
  children: ComponentChildren
}

/** What is known of one thing: beside the list on a wide screen, over it on a phone. Escape closes it. */
export function Panel({ title, within, close, beside, children }: Props) {
  useEffect(() => {
    const leave = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && document.querySelector('dialog[open]') === null) location.hash = close
    }
    addEventListener('keydown', leave)
    return () => removeEventListener('keydown', leave)
  }, [close])
  return (
    <section class="panel" aria-label={title}>
      <header>
        <a class="button quiet square back" href={close} aria-label="Back to the list">
          <Icon name="back" />
        </a>
        <div class="titles">
          <h2>{title}</h2>
          {within === undefined || within === '' ? undefined : <p class="muted mono">{within}</p>}
        </div>
        {beside}
        <a class="button quiet square away" href={close} aria-label="Close">
          <Icon name="close" />
        </a>
      </header>
      <div class="body" tabIndex={-1}>
        {children}
      </div>
    </section>
  )
}

export function Facts({ facts }: { facts: readonly (readonly [string, ComponentChildren])[] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}
