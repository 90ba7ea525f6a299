# Every endpoint has its view; spin.toml has those that a guest answers too, and by which rules.

from catalogue import views
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpResponse
from django.urls import path

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", LoginView.as_view(template_name="catalogue/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("api/books", views.books),
    path("api/books/<int:pk>", views.book),
    path("api/isbn", views.isbn),
    path("api/me", views.me),
    path("covers/<int:pk>.svg", views.cover, name="cover"),
    path("admin/", admin.site.urls),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
]
