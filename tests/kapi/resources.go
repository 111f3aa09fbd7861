// SPDX-License-Identifier: Apache-2.0

// The kinds that are served and how they are kept: as they come, with the metadata that every object has. Used by main.go.
// Controllers, defaults and most of the validation of a real cluster are not here: the tests play them.

package main

import (
	"context"
	"fmt"
	"strings"

	apps "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	events "k8s.io/api/events/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	validation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// kind is one resource of a group.
type kind struct {
	name       string
	namespaced bool
	object     runtime.Object
	list       runtime.Object
	hasStatus  bool
}

var kinds = map[schema.GroupVersion][]kind{
	core.SchemeGroupVersion: {
		{"namespaces", false, &core.Namespace{}, &core.NamespaceList{}, true},
		{"nodes", false, &core.Node{}, &core.NodeList{}, true},
		{"pods", true, &core.Pod{}, &core.PodList{}, true},
		{"services", true, &core.Service{}, &core.ServiceList{}, true},
		{"endpoints", true, &core.Endpoints{}, &core.EndpointsList{}, false},
		{"configmaps", true, &core.ConfigMap{}, &core.ConfigMapList{}, false},
		{"secrets", true, &core.Secret{}, &core.SecretList{}, false},
		{"serviceaccounts", true, &core.ServiceAccount{}, &core.ServiceAccountList{}, false},
		{"persistentvolumeclaims", true, &core.PersistentVolumeClaim{}, &core.PersistentVolumeClaimList{}, true},
		{"events", true, &core.Event{}, &core.EventList{}, false},
	},
	discovery.SchemeGroupVersion: {
		{"endpointslices", true, &discovery.EndpointSlice{}, &discovery.EndpointSliceList{}, false},
	},
	networking.SchemeGroupVersion: {
		{"networkpolicies", true, &networking.NetworkPolicy{}, &networking.NetworkPolicyList{}, false},
	},
	apps.SchemeGroupVersion: {
		{"daemonsets", true, &apps.DaemonSet{}, &apps.DaemonSetList{}, true},
		{"deployments", true, &apps.Deployment{}, &apps.DeploymentList{}, true},
	},
	policy.SchemeGroupVersion: {
		{"poddisruptionbudgets", true, &policy.PodDisruptionBudget{}, &policy.PodDisruptionBudgetList{}, true},
	},
	rbac.SchemeGroupVersion: {
		{"roles", true, &rbac.Role{}, &rbac.RoleList{}, false},
		{"rolebindings", true, &rbac.RoleBinding{}, &rbac.RoleBindingList{}, false},
		{"clusterroles", false, &rbac.ClusterRole{}, &rbac.ClusterRoleList{}, false},
		{"clusterrolebindings", false, &rbac.ClusterRoleBinding{}, &rbac.ClusterRoleBindingList{}, false},
	},
	events.SchemeGroupVersion: {
		{"events", true, &events.Event{}, &events.EventList{}, false},
	},
	coordination.SchemeGroupVersion: {
		{"leases", true, &coordination.Lease{}, &coordination.LeaseList{}, false},
	},
}

// register adds the kinds to the scheme and returns their groups. The external type is its own internal one.
func register(scheme *runtime.Scheme) []schema.GroupVersion {
	var groups []schema.GroupVersion
	for group, ofGroup := range kinds {
		groups = append(groups, group)
		internal := schema.GroupVersion{Group: group.Group, Version: runtime.APIVersionInternal}
		for _, k := range ofGroup {
			scheme.AddKnownTypes(group, k.object, k.list)
			scheme.AddKnownTypes(internal, k.object, k.list)
			utilruntime.Must(scheme.AddFieldLabelConversionFunc(group.WithKind(kindOf(scheme, k)), selectable))
		}
		metav1.AddToGroupVersion(scheme, group)
		utilruntime.Must(scheme.SetVersionPriority(group))
	}
	unversioned := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, unversioned)
	scheme.AddUnversionedTypes(unversioned, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return groups
}

func kindOf(scheme *runtime.Scheme, k kind) string {
	all, _, err := scheme.ObjectKinds(k.object)
	utilruntime.Must(err)
	return all[0].Kind
}

// selectable names the fields that a client may select by.
func selectable(label, value string) (string, string, error) {
	switch label {
	case "metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP":
		return label, value, nil
	}
	return "", "", fmt.Errorf("field label not supported: %s", label)
}

func attributes(object runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(object)
	if err != nil {
		return nil, nil, err
	}
	set := fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
	if pod, ok := object.(*core.Pod); ok {
		set["spec.nodeName"], set["status.phase"], set["status.podIP"] = pod.Spec.NodeName, string(pod.Status.Phase), pod.Status.PodIP
	}
	return m.GetLabels(), set, nil
}

// newStore keeps one kind in etcd, behind the watch cache of a real API server.
func newStore(scheme *runtime.Scheme, group string, k kind, options generic.RESTOptionsGetter) *registry.Store {
	how := strategy{scheme, names.SimpleNameGenerator, k.namespaced}
	resource := schema.GroupResource{Group: group, Resource: k.name}
	singular := schema.GroupResource{Group: group, Resource: strings.ToLower(kindOf(scheme, k))}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return k.object.DeepCopyObject() },
		NewListFunc:               func() runtime.Object { return k.list.DeepCopyObject() },
		DefaultQualifiedResource:  resource,
		SingularQualifiedResource: singular,
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attributes}
		},
		CreateStrategy: how,
		UpdateStrategy: how,
		DeleteStrategy: how,
		TableConvertor: rest.NewDefaultTableConvertor(resource),
	}
	utilruntime.Must(store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: attributes}))
	return store
}

// strategy takes objects as they are.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	namespaced bool
}

func (s strategy) NamespaceScoped() bool                                            { return s.namespaced }
func (s strategy) AllowCreateOnUpdate() bool                                        { return true }
func (s strategy) AllowUnconditionalUpdate() bool                                   { return true }
func (s strategy) PrepareForCreate(context.Context, runtime.Object)                 {}
func (s strategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (s strategy) Canonicalize(runtime.Object)                                      {}
func (s strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (s strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s strategy) Validate(_ context.Context, object runtime.Object) field.ErrorList {
	m, err := meta.Accessor(object)
	utilruntime.Must(err)
	errs := validation.ValidateObjectMetaAccessor(m, s.namespaced, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	if service, ok := object.(*core.Service); ok {
		for i, port := range service.Spec.Ports {
			if port.Port < 1 || port.Port > 65535 {
				at := field.NewPath("spec", "ports").Index(i).Child("port")
				errs = append(errs, field.Invalid(at, port.Port, "must be between 1 and 65535, inclusive"))
			}
		}
	}
	return errs
}

func (s strategy) ValidateUpdate(_ context.Context, object, old runtime.Object) field.ErrorList {
	a, err := meta.Accessor(object)
	utilruntime.Must(err)
	b, err := meta.Accessor(old)
	utilruntime.Must(err)
	return validation.ValidateObjectMetaAccessorUpdate(a, b, field.NewPath("metadata"))
}

// status is the subresource: the whole object, as a kubelet or a controller writes it.
type status struct{ store *registry.Store }

func (s *status) New() runtime.Object { return s.store.New() }
func (s *status) Destroy()            {}
func (s *status) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, options)
}
func (s *status) Update(ctx context.Context, name string, object rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, object, create, update, false, options)
}
func (s *status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }
